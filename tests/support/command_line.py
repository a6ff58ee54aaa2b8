"""What the command line says."""

from ragjax.run_dir import load_run


def the_sentence(err):
    """The one line of an error, without the command's name."""
    assert err.endswith("\n")
    (line,) = err.splitlines()
    assert line.startswith("ragjax: ")
    assert line.endswith((".", "?"))  # a sentence; the question is "did you mean ...?"
    assert "Traceback" not in line
    assert not set("│╭╮╰╯─") & set(line)
    return line.removeprefix("ragjax: ")


def notes_of_cut(run_dir, answer):
    """What is noted of an answer that fills all its room, as those of a model that hardly learned do."""
    text = load_run(run_dir).learner.text
    room = text.spec.answer_length
    cut = len(text.tokenizer.encode(answer)) >= room
    return [f"the answer is cut after {room} tokens"] * cut
