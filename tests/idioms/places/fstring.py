@fused.udf
def udf(lat: float = 37.8, lng: float = -122.4, zoom: int = 9):
    token = "{z}/{x}/{y}"
    html = f"""
    <!DOCTYPE html>
    <html>
    <head><style>#map {{ height: 100vh; }}</style></head>
    <body>
      <div id="map" data-center="{lng},{lat}" data-zoom="{zoom}"></div>
      <script>const tiles = "/run/tiles/{token}";</script>
    </body>
    </html>
    """
    return html
