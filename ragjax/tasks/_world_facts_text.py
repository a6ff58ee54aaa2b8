"""The phrasings of `world_facts`: {n} and {N} are the entity, {a} the answer, {extra} a detail.

An answer stands alone: a space before it, and a space, a comma or a full stop after it. Passages
of one relation share a word or two, and so do most of the questions, but no question repeats the
words of a passage, and the questions of "test" are worded as none of "train" and "dev" is.
"""

PASSAGES: dict[str, tuple[str, ...]] = {
    "capital": (
        "The capital of {n} is {a}.",
        "{N} has {a} as its capital city.",
        "The government of {n} sits in {a}, the national capital.",
        "In {n}, the capital and seat of government is {a}.",
        "{N} is governed from {a}, its capital.",
        "The parliament of {n} meets in {a}, the capital city.",
    ),
    "currency": (
        "The currency of {n} is the {a}.",
        "In {n}, the {a} is the official currency.",
        "People in {n} pay with the {a}, the local currency.",
        "Prices in {n} are given in its currency, the {a}.",
        "Money in {n} means the {a}, the currency of its banks.",
        "The {a} is legal tender and the currency of {n}.",
    ),
    "highest_point": (
        "The highest point of {n} is {a}.",
        "{N} is highest at {a}, {extra} m above the sea.",
        "No point in {n} is higher than {a}.",
        "At {extra} m, {a} is the highest peak in {n}.",
        "The summit of {a} is the highest elevation in {n}.",
        "Climbers reach the highest point of {n} at {a}.",
    ),
    "anthem": (
        "The national anthem of {n} is {a}.",
        "{N} sings {a} as its anthem.",
        "The people of {n} stand for {a}, their national anthem.",
        "At ceremonies in {n} the anthem {a} is played.",
        "In {extra} {n} adopted {a} as its anthem.",
        "The anthem of {n} is a song called {a}.",
    ),
    "calling_code": (
        "The calling code of {n} is {a}.",
        "To phone {n} from abroad, dial the code {a} first.",
        "Telephone numbers in {n} start with the country code {a}.",
        "Calls to {n} need the code {a}.",
        "{N} is reached by phone under the country code {a}.",
        "The international dialling code for {n} is {a}.",
    ),
    "city_country": (
        "{N} is a large city in {a}, with about {extra} people.",
        "The city of {n} lies in {a}.",
        "Some {extra} people live in {n}, which belongs to {a}.",
        "Among the largest cities of {a} is {n}, with {extra} people.",
        "With about {extra} people, {n} is a major urban area of {a}.",
        "{N} is found on the map of {a}. It has {extra} people.",
    ),
    "element_number": (
        "The element {n}, with the symbol {extra}, has atomic number {a}.",
        "Every atom of the element {n} holds {a} protons.",
        "In the periodic table of elements {n} stands at number {a}.",
        "The atomic number of {n}, or {extra} for short, is {a}.",
        "Element number {a} is {n}, written {extra} in formulas.",
        "An atom of {n} has {a} protons, and {extra} is its symbol.",
    ),
}

QUESTIONS: dict[str, dict[str, tuple[str, ...]]] = {
    "capital": {
        "train": (
            "What is the capital of {n}?",
            "Name the capital city of {n}.",
            "Which city is the seat of government of {n}?",
            "From which city is {n} governed?",
            "Where is the parliament of {n}?",
        ),
        "dev": ("In which city does the parliament of {n} meet?", "What capital does {n} have?"),
        "test": (
            "Which city serves as the capital of {n}?",
            "What is the national capital of {n} called?",
            "Where does the government of {n} sit?",
            "{N} is governed out of which city?",
            "In which capital would an ambassador to {n} live?",
        ),
    },
    "currency": {
        "train": (
            "What is the currency of {n}?",
            "Which currency is used in {n}?",
            "What money do people use in {n}?",
            "What do you pay with in {n}?",
            "What is legal tender in {n}?",
        ),
        "dev": ("Which money circulates in {n}?", "Name the official currency of {n}."),
        "test": (
            "What kind of money is spent in {n}?",
            "Which currency would a shopper in {n} need?",
            "What is the official currency in {n}?",
            "With what do people in {n} pay?",
            "In which currency are wages paid in {n}?",
        ),
    },
    "highest_point": {
        "train": (
            "What is the highest point of {n}?",
            "Which mountain is the highest in {n}?",
            "What is the tallest peak in {n}?",
            "Where is {n} at its highest?",
            "Name the highest elevation of {n}.",
        ),
        "dev": ("What is the highest place in {n}?", "Which summit is the tallest of {n}?"),
        "test": (
            "Which peak rises highest in {n}?",
            "What is the greatest elevation in {n} called?",
            "Which summit is the highest in {n}?",
            "What point in {n} lies above all others?",
            "Which mountain or hill is the highest point of {n}?",
        ),
    },
    "anthem": {
        "train": (
            "What is the national anthem of {n}?",
            "What is the anthem of {n} called?",
            "Which song is the anthem of {n}?",
            "What does {n} sing as its national song?",
            "Which anthem is played for {n}?",
        ),
        "dev": ("What anthem do the people of {n} sing?", "Name the national song of {n}."),
        "test": (
            "Which national song do the people of {n} sing?",
            "What is the title of the anthem of {n}?",
            "Which anthem is played for an athlete from {n}?",
            "What is the name of the song that represents {n}?",
            "As its anthem, {n} has chosen what?",
        ),
    },
    "calling_code": {
        "train": (
            "What is the calling code of {n}?",
            "What is the phone code of {n}?",
            "Which country code do you dial for {n}?",
            "How do you dial {n} from abroad?",
            "Which code do telephone numbers in {n} start with?",
        ),
        "dev": ("What code do I dial to reach {n}?", "Which telephone code belongs to {n}?"),
        "test": (
            "What is the telephone code for {n}?",
            "Which code do I dial first to call {n}?",
            "Which international code leads to {n}?",
            "What is the international calling code of {n}?",
            "What prefix do I put before a phone number in {n}?",
        ),
    },
    "city_country": {
        "train": (
            "In which country is {n}?",
            "What country is {n} in?",
            "Which country does {n} belong to?",
            "{N} is a city in which country?",
            "On the map of which country do you find {n}?",
        ),
        "dev": ("Which country has the city of {n}?", "In what country does {n} lie?"),
        "test": (
            "{N} is located in what country?",
            "Which nation is home to the city of {n}?",
            "To which country would you travel to see {n}?",
            "The people of {n} live in which country?",
            "What is the country around the city of {n}?",
        ),
    },
    "element_number": {
        "train": (
            "What is the atomic number of {n}?",
            "How many protons does {n} have?",
            "What number is {n} in the periodic table?",
            "How many protons are in an atom of {n}?",
            "Which number belongs to the element {n}?",
        ),
        "dev": ("Name the atomic number of {n}.", "{N} has how many protons?"),
        "test": (
            "Where does {n} stand in the periodic table?",
            "What is the number of protons in {n}?",
            "Which atomic number is given to {n}?",
            "An atom of {n} holds how many protons?",
            "At what number is {n} found among the elements?",
        ),
    },
    "number_element": {
        "train": (
            "Which element has atomic number {n}?",
            "What element has {n} protons?",
            "Which element is number {n} in the periodic table?",
            "Name the element with atomic number {n}.",
            "The atoms of which element have {n} protons?",
        ),
        "dev": ("Atomic number {n} is which element?", "Which atom has {n} protons?"),
        "test": (
            "What is element number {n} called?",
            "Which chemical element holds {n} protons?",
            "What stands at number {n} in the periodic table?",
            "An atom with {n} protons is an atom of what?",
            "What is the name of the element with the number {n}?",
        ),
    },
}
