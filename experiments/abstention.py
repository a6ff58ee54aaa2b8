"""Where it gives no answer: held-out questions of world_facts, and 100 that its passages don't answer.

`ragjax plot experiments/abstention.py --run` measures; it needs the run that
`ragjax train configs/world_facts/rag_sequence.py` leaves.
"""

from pathlib import Path
from typing import Any

from ragjax import load_run
from ragjax.errors import UserError
from ragjax.evaluation.plots import Plot, read_figures, recorded_by, results_of
from ragjax.evaluation.tables import MarkdownTable

RUN = Path("runs/world_facts/rag_sequence/seed_0")

# Nothing was chosen by these questions. The first fifty are of other worlds; the others name a country,
# a city or an element of the passages, but ask what no passage says of it. Said are: of a country its
# capital, currency, highest point, anthem, calling code, people, continent and domain; of a city its
# country and people; of an element its number and symbol.
ELSEWHERE = """\
When did World War II end?
Who wrote Pride and Prejudice?
How many players are on a football team?
What is the boiling point of water?
Who painted the Mona Lisa?
What year did the Titanic sink?
Which planet is closest to the sun?
How do I bake sourdough bread?
Who was the first person on the moon?
What is the square root of 144?
Which language has the most native speakers?
Who discovered penicillin?
How long does it take to boil an egg?
What is the plot of Hamlet?
Who won the World Cup in 1998?
What does DNA stand for?
When was the Eiffel Tower built?
Why is the sky blue?
How many legs does a spider have?
Who composed the Moonlight Sonata?
What is the fastest land animal?
Which company makes the iPhone?
How tall is the average giraffe?
What is the meaning of life?
Who is the main character of Moby Dick?
When does daylight saving time begin?
What is a good name for a cat?
How many bones are in the human body?
Who invented the telephone?
What time is it?
How much does a litre of milk weigh?
Which team won the Super Bowl in 2010?
Is it going to rain tomorrow?
Who directed Jurassic Park?
What is the opposite of hot?
How many strings does a violin have?
What colour do you get from blue and yellow?
Who was president before Obama?
How do vaccines work?
What is the largest ocean?
Which vitamin do we get from sunlight?
When did the Berlin Wall fall?
Who sings Bohemian Rhapsody?
How fast does light travel?
What is the recipe for pancakes?
Which animal is known as the ship of the desert?
Who founded Microsoft?
What is the chemical formula of table salt?
How many minutes are in a day?
Tell me a joke.
""".splitlines()
UNSAID = """\
What is the national bird of France?
Who is the president of Brazil?
When did India become independent?
What is the area of Canada?
Which river flows through Vienna?
Who is the king of Spain?
What language do they speak in Egypt?
Who is the mayor of Tokyo?
What is the melting point of iron?
Who discovered radium?
What colour is sulfur?
When was Rome founded?
What is the longest river in China?
Which countries border Germany?
What is the religion of Iran?
How high is the Eiffel Tower in Paris?
What does the flag of Japan look like?
What is the time zone of Portugal?
Who is the prime minister of Norway?
What is the density of gold?
What is copper used for?
How expensive is silver?
What is the climate of Chile?
What is the national animal of Australia?
What food is Italy famous for?
Which university is in Oxford?
What is the inflation rate of Kenya?
How many provinces does Argentina have?
When did Greece join the European Union?
Who won the war between Iraq and Iran?
What is the life expectancy in Sweden?
What is the largest lake of Finland?
Which airline is from Qatar?
Which football club plays in Barcelona?
What is the price of oxygen?
What is the half-life of uranium?
Why is mercury liquid?
How was helium named?
What is the main export of Nigeria?
Which sea lies north of Poland?
How many islands belong to Indonesia?
Who conquered Mexico?
What is the oldest city in Turkey?
How far is Madrid from Lisbon?
What is the minimum wage in Ireland?
Does Switzerland have a coast?
What is the tallest building in Dubai?
How long is the border of Nepal?
What did Napoleon do in Moscow?
What is the voltage in Peru?
""".splitlines()


def measure() -> dict[str, Any]:
    """How many of each kind are answered, and of those of the task how many rightly."""
    run = load_run(RUN)
    selective = run.evaluate("test")["selective"]
    kinds = {"other worlds": ELSEWHERE, "facts left unsaid": UNSAID}

    def is_answered(text: str) -> bool:
        try:
            return run.answer(text)["answer"] is not None
        except UserError:  # it has no known word
            return False

    foreign = {
        name: {"questions": len(texts), "answered": [text for text in texts if is_answered(text)]}
        for name, texts in kinds.items()
    }
    return {"test": selective, "foreign": foreign}


def get_table() -> MarkdownTable:
    """The recorded figures as a table."""
    numbers = read_figures(results_of(Path(__file__)))
    test = numbers["test"]
    lines = [
        "| questions | answered | right of those |",
        "| --- | ---: | ---: |",
        f"| held-out questions of the task | {test['coverage']:.1%} | {test['accuracy']:.1%} |",
    ]
    for name, found in numbers["foreign"].items():
        share = len(found["answered"]) / found["questions"]
        lines.append(f"| {found['questions']} of {name} | {share:.1%} | none |")
    lines += [
        "",
        "The threshold is calibrated on development questions. The 100 others stand in the "
        "experiment's file; no passage holds an answer to them, so that every answer is wrong.",
    ]
    return MarkdownTable(
        title="Where it gives no answer: world_facts, RAG-Sequence",
        body="\n".join(lines),
        source=recorded_by(numbers, "ragjax plot experiments/abstention.py --run"),
    )


def get_plots() -> tuple[Plot, ...]:
    """None: the figures are a table's."""
    return ()
