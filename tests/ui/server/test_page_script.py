"""The scripts of the page are one element of its head."""

from ui.server.page_script import page_script


def test_no_script_and_no_text_ends_the_element():
    assert page_script().count("</script") == 1 and page_script().endswith("</script>")
