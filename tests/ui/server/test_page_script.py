"""The scripts of the page are one element of its head."""

import json

from ui.server.page_script import embed_json, page_script


def test_no_script_ends_the_element():
    assert page_script().count("</script") == 1 and page_script().endswith("</script>")


def test_no_text_ends_the_element():
    found = embed_json({"a": "x</script><b>é"})
    assert "</" not in found and json.loads(found) == {"a": "x</script><b>é"}
