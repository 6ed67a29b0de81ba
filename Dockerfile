# A server for the workspace mounted at /workspace:
#
#   docker build -t tileserver .
#   docker run -p 8000:8000 -v "$PWD":/workspace -e TILESERVER_ALLOWED_HOSTS=localhost tileserver
#
# TILESERVER_ALLOWED_HOSTS names the hosts that clients use for the server. The user in the container
# (10001) must be able to read the workspace and to write its folder .tileserver.

FROM python:3.13-slim AS build
WORKDIR /source
COPY . .
RUN python -m venv /opt/tileserver \
 && /opt/tileserver/bin/pip install --no-cache-dir '.[udfs]'

FROM python:3.13-slim
# GDAL, as shipped with rasterio, takes this library from the system.
RUN apt-get update \
 && apt-get install -y --no-install-recommends libexpat1 \
 && rm -rf /var/lib/apt/lists/*
RUN useradd --uid 10001 --create-home tileserver \
 && install -d -o tileserver -g tileserver /workspace
COPY --from=build /opt/tileserver /opt/tileserver
ENV PATH=/opt/tileserver/bin:$PATH PYTHONUNBUFFERED=1
USER tileserver
WORKDIR /workspace
VOLUME /workspace
EXPOSE 8000
STOPSIGNAL SIGTERM
# Any answer of the server's own counts: a health check is no client whose host name must be allowed.
HEALTHCHECK --start-period=20s --interval=30s --timeout=5s \
  CMD ["python", "-c", "import http.client as h; c = h.HTTPConnection('127.0.0.1', 8000, timeout=4); c.request('GET', '/healthz'); raise SystemExit(c.getresponse().status >= 500)"]
ENTRYPOINT ["tileserver"]
CMD ["serve", "/workspace", "--host", "0.0.0.0", "--port", "8000"]
