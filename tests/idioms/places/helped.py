@fused.udf
def udf(name: str = "World"):
    common = fused.load("https://github.com/example/udfs/tree/0123456789abcdef/public/common/")
    return common.html_to_obj(f"<p>Hello {name}</p>")
