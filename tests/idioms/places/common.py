def html_to_obj(html):
    from fastapi import Response

    return Response(html.encode("utf-8"), media_type="text/html; charset=utf-8")


def table_page(df, title):
    import jinja2

    template = jinja2.Template("<h1>{{ title }}</h1>{% for r in rows %}<p>{{ r.magnitude }}</p>{% endfor %}")
    return html_to_obj(template.render(title=title, rows=df.to_dict("records")))
