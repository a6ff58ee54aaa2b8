"""What the command line says."""


def the_sentence(err):
    """The one line of an error, without the command's name."""
    assert err.endswith("\n")
    (line,) = err.splitlines()
    assert line.startswith("ragjax: ")
    assert line.endswith((".", "?"))  # a sentence; the question is "did you mean ...?"
    assert "Traceback" not in line
    assert not set("│╭╮╰╯─") & set(line)
    return line.removeprefix("ragjax: ")
