import fused
from fastapi import Response


@fused.udf
def udf():
    return "helpers"


def html_to_obj(html):
    return Response(html.encode("utf-8"), media_type="text/html; charset=utf-8")
