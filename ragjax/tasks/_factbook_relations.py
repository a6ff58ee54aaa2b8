"""What `factbook` asks: where each fact stands in the source, how to read it and how to ask it."""

import re
from typing import NamedTuple

_NUMBER = r"(\d[\d,.]*\d|\d)"
# Titles before a person's name; the name alone is the answer, the whole is accepted too.
_TITLES = (
    r"(?:(?:Acting|Interim|Transitional|Federal|First|Vice|Deputy|Executive|State|Supreme|Crown"
    r"|President|Prime|Premier|Minister|Chancellor|King|Queen|Emperor|Sultan|Amir|Emir|Prince"
    r"|Princess|Grand Duke|Duke|Taoiseach|Captain|Regents?|General|Gen\.|Lt\.|Maj\.|Brig\.|Col\."
    r"|Dr\.|Sir|Sheikh|Ambassador|Governor|Chairman|Leader|Counselor|Administrator|Commissioner"
    r"|Chief|Taliban|Transition|Capt\.)\s+)*"
)
# A person's surname is in capitals; where the post is vacant, no name is.
_PERSON = (
    rf"(?=[^(;,]*[A-Z]{{2}})(?=([^(;,]{{3,60}}?)(?: \(|;|,|$))"
    rf"{_TITLES}(?P<answer>[^(;,]{{3,50}}?)(?: \(|;|,|$)"
)
_MONTH = (
    r"(?:January|February|March|April|May|June|July|August|September|October|November|December)"
)


class Relation(NamedTuple):
    """A kind of fact.

    Attributes:
      path: section, field and, where the field has parts, the part.
      answer: matches the field's text; the group "answer" is the answer, others are accepted too.
      train: phrasings for training; dev entities are asked with these too.
      dev: phrasings that only the dev split uses.
      test: phrasings that only the test split uses.
    """

    path: tuple[str, ...]
    answer: re.Pattern[str]
    train: tuple[str, ...]
    dev: tuple[str, ...]
    test: tuple[str, ...]


def _relation(
    path: str, answer: str, train: tuple[str, ...], dev: tuple[str, ...], test: tuple[str, ...]
) -> Relation:
    """Returns a relation from a path written as "section/field/part"."""
    return Relation(tuple(path.split("/")), re.compile(answer), train, dev, test)


RELATIONS: dict[str, Relation] = {
    "capital": _relation(
        "Government/Capital/name",
        r"(?P<answer>[^;,(]{2,40}?)(?: \(| in |;|,|$)",
        (
            "What is the capital of {n}?",
            "Which city is the capital of {n}?",
            "Where is the seat of government of {n}?",
        ),
        ("Name the capital of {n}.",),
        ("Which city serves as the capital of {n}?", "What's the name of the capital in {n}?"),
    ),
    "highest_point": _relation(
        "Geography/Elevation/highest point",
        r"(?!unnamed|\d)(?P<answer>[^;,(\d]{2,40}?)(?: \(|;|,| on | [\d,]+)",
        (
            "What is the highest point of {n}?",
            "Which mountain is the highest in {n}?",
            "What is the greatest elevation in {n}?",
        ),
        ("Name the highest peak of {n}.",),
        (
            "Which peak is the highest point in {n}?",
            "At what point does {n} reach its highest elevation?",
        ),
    ),
    "mean_elevation": _relation(
        "Geography/Elevation/mean elevation",
        rf"(?P<answer>{_NUMBER} m)\b",
        (
            "What is the mean elevation of {n}?",
            "How high is {n} on average?",
            "What is the average elevation of {n}?",
        ),
        ("What is the mean height of {n}?",),
        (
            "How many metres is the mean elevation in {n}?",
            "What elevation does {n} have on average?",
        ),
    ),
    "area": _relation(
        "Geography/Area/total ",
        rf"(?P<answer>{_NUMBER} sq km)\b",
        (
            "What is the total area of {n}?",
            "How big is {n} in square kilometres?",
            "What is the area of land and water of {n}?",
        ),
        ("How large is the area of {n}?",),
        ("How many sq km does {n} cover in total?", "How large is {n}, land and water together?"),
    ),
    "coastline": _relation(
        "Geography/Coastline",
        rf"(?!0 km)(?P<answer>{_NUMBER} km)\b",
        (
            "How long is the coastline of {n}?",
            "What is the length of the coast of {n}?",
            "How many kilometres of coastline does {n} have?",
        ),
        ("How long is the shore of {n}?",),
        (
            "Over how many km does the coastline of {n} run?",
            "For how many km does {n} meet the sea?",
        ),
    ),
    "irrigated_land": _relation(
        "Geography/Irrigated land",
        rf"(?!0 sq km)(?P<answer>{_NUMBER} sq km)\b",
        (
            "How much irrigated land is there in {n}?",
            "What area of {n} is irrigated?",
            "How much land do farmers in {n} irrigate?",
        ),
        ("How large is the irrigated area of {n}?",),
        (
            "How many sq km are irrigated in {n}?",
            "How much of the land of {n} is watered by farmers?",
        ),
    ),
    "population": _relation(
        "People and Society/Population/total",
        r"(?P<answer>\d[\d,]{3,})",
        (
            "What is the population of {n}?",
            "How many people live in {n}?",
            "How many inhabitants does {n} have?",
        ),
        ("How many people are there in {n}?",),
        ("How large is the total population of {n}?", "How many men and women live in {n}?"),
    ),
    "median_age": _relation(
        "People and Society/Median age/total",
        rf"(?P<answer>{_NUMBER} years)\b",
        (
            "What is the median age in {n}?",
            "How old is the typical person in {n}?",
            "What age divides the people of {n} into two halves?",
        ),
        ("How many years is the median age of {n}?",),
        (
            "What median age do the people of {n} have?",
            "At what age is half of {n} older and half younger?",
        ),
    ),
    "life_expectancy": _relation(
        "People and Society/Life expectancy at birth/total population",
        rf"(?P<answer>{_NUMBER} years)\b",
        (
            "What is the life expectancy in {n}?",
            "How long do people in {n} live?",
            "How many years of life can a newborn in {n} expect?",
        ),
        ("How long is a life in {n} on average?",),
        (
            "What life expectancy does a baby born in {n} have?",
            "How many years does a life last in {n}?",
        ),
    ),
    "infant_mortality": _relation(
        "People and Society/Infant mortality rate/total",
        rf"(?P<answer>{_NUMBER}) deaths",
        (
            "What is the infant mortality rate of {n}?",
            "How many infants in a thousand die in {n}?",
            "How many deaths are there per 1,000 live births in {n}?",
        ),
        ("How high is infant mortality in {n}?",),
        (
            "At what rate do infants die in {n}?",
            "Of 1,000 live births in {n}, how many end in death?",
        ),
    ),
    "fertility": _relation(
        "People and Society/Total fertility rate",
        rf"(?P<answer>{_NUMBER}) children",
        (
            "What is the fertility rate of {n}?",
            "How many children does a woman in {n} have?",
            "How many children are born to each woman in {n}?",
        ),
        ("How high is fertility in {n}?",),
        (
            "What total fertility is found in {n}?",
            "How many children does a mother in {n} have on average?",
        ),
    ),
    "chief_of_state": _relation(
        "Government/Executive branch/chief of state",
        rf"(?!.*represented){_PERSON}",
        (
            "Who is the head of state of {n}?",
            "Who is the chief of state of {n}?",
            "Who holds the highest office of the state in {n}?",
        ),
        ("Who stands at the head of the state of {n}?",),
        (
            "Which person is chief of state in {n}?",
            "Who is at the top of the executive as head of state of {n}?",
        ),
    ),
    "head_of_government": _relation(
        "Government/Executive branch/head of government",
        _PERSON,
        (
            "Who is the head of government of {n}?",
            "Who leads the cabinet of {n}?",
            "Who runs the government of {n}?",
        ),
        ("Who heads the government of {n}?",),
        (
            "Which politician is head of the government in {n}?",
            "Who leads the executive and its cabinet in {n}?",
        ),
    ),
    "legislature": _relation(
        "Government/Legislative branch/legislature name",
        r"(?!(?:National Assembly|Parliament|Legislative Assembly)\b)"
        r"(?P<answer>[^;,(]{4,60}?)(?: \(|;|,|$)",
        (
            "What is the legislature of {n} called?",
            "What is the parliament of {n} called?",
            "Which body makes the laws of {n}?",
        ),
        ("What name does the legislature of {n} have?",),
        (
            "Under what name is the legislature of {n} known?",
            "Which legislative assembly do the lawmakers of {n} form?",
        ),
    ),
    "national_day": _relation(
        "Government/National holiday",
        rf".*?(?P<answer>\d{{1,2}} {_MONTH})\b",
        (
            "When is the national holiday of {n}?",
            "On which day does {n} celebrate its national holiday?",
            "What date is the national day of {n}?",
        ),
        ("Which day is a national holiday in {n}?",),
        (
            "On what date is the national holiday in {n}?",
            "When do the people of {n} celebrate their national day?",
        ),
    ),
    "independence": _relation(
        "Government/Independence",
        rf"[^;]*?(?P<answer>\d{{1,2}} {_MONTH} \d{{4}})\b",
        (
            "When did {n} become independent?",
            "What is the date of the independence of {n}?",
            "Since when has {n} been a state of its own?",
        ),
        ("When was the independence of {n}?",),
        ("On which date did {n} gain its independence?", "When did {n} get free and independent?"),
    ),
    "anthem": _relation(
        "Government/National anthem(s)/title",
        r'"(?P<answer>[^"(]{3,50}?)[,!?]?"',
        (
            "What is the title of the national anthem of {n}?",
            "What is the anthem of {n} called?",
            "Which song is the national anthem of {n}?",
        ),
        ("Name the anthem of {n}.",),
        (
            "What title does the anthem of {n} bear?",
            "Which national song do the people of {n} sing?",
        ),
    ),
    "ambassador": _relation(
        "Government/Diplomatic representation in the US/chief of mission",
        _PERSON,
        (
            "Who is the ambassador of {n} in Washington?",
            "Who is the chief of mission of {n} in the US?",
            "Which ambassador represents {n} in the US?",
        ),
        ("Who represents {n} in Washington?",),
        (
            "Who serves as ambassador of {n} to the US?",
            "Who heads the diplomatic mission of {n} in Washington?",
        ),
    ),
    "internet_code": _relation(
        "Communications/Internet country code",
        r"[^.]*?(?P<answer>\.[a-z]{2})\b",
        (
            "What is the internet country code of {n}?",
            "What do web addresses in {n} end in?",
            "Which internet domain belongs to {n}?",
        ),
        ("What is the country code of {n} on the internet?",),
        (
            "Which country code is used on the internet for {n}?",
            "What is the internet suffix of {n}?",
        ),
    ),
    "internet_users": _relation(
        "Communications/Internet users/percent of population",
        rf"(?P<answer>{_NUMBER}%)",
        (
            "What percent of the population of {n} uses the internet?",
            "How many internet users are there in {n}?",
            "What share of people in {n} is online?",
        ),
        ("Which percent of {n} is online?",),
        (
            "What percent of people in {n} are internet users?",
            "What share of the population has internet in {n}?",
        ),
    ),
    "mobile_phones": _relation(
        "Communications/Telephones - mobile cellular/total subscriptions",
        rf"(?P<answer>{_NUMBER}(?: [mb]illion)?)",
        (
            "How many mobile phones are there in {n}?",
            "How many mobile cellular subscriptions does {n} have?",
            "What is the number of cell phones in {n}?",
        ),
        ("How many mobile subscriptions are there in {n}?",),
        (
            "How many cellular telephones have a subscription in {n}?",
            "What is the total of mobile telephones in {n}?",
        ),
    ),
    "airports": _relation(
        "Transportation/Airports",
        r"(?P<answer>\d\d[\d,]*) \(",
        (
            "How many airports does {n} have?",
            "What is the number of airports in {n}?",
            "How many airfields are there in {n}?",
        ),
        ("How many airports are there in {n}?",),
        (
            "Between how many airports can one fly in {n}?",
            "How many airports does one count in {n}?",
        ),
    ),
    "railways": _relation(
        "Transportation/Railways/total",
        rf"(?P<answer>{_NUMBER} km)\b",
        (
            "How long are the railways of {n}?",
            "How many kilometres of railway are there in {n}?",
            "What is the length of the rail network of {n}?",
        ),
        ("What length do the railways of {n} have?",),
        (
            "How many km do the railways in {n} total?",
            "How much railway track has been laid in {n}?",
        ),
    ),
    "merchant_ships": _relation(
        "Transportation/Merchant marine/total",
        r"(?P<answer>\d\d[\d,]*) \(",
        (
            "How many ships are in the merchant marine of {n}?",
            "How large is the merchant fleet of {n}?",
            "How many merchant ships sail under the flag of {n}?",
        ),
        ("How many merchant ships has {n}?",),
        (
            "How many vessels does the merchant marine of {n} count?",
            "How many cargo ships and tankers does {n} have?",
        ),
    ),
    "military_spending": _relation(
        "Military and Security/Military expenditures",
        rf"[^:]*: (?P<answer>{_NUMBER}%)",
        (
            "What share of GDP does {n} spend on its military?",
            "How large are the military expenditures of {n}?",
            "How much of its GDP goes to the army in {n}?",
        ),
        ("What percent of GDP does the military of {n} cost?",),
        (
            "What part of GDP is the military expenditure of {n}?",
            "How much does {n} spend on its armed forces, in percent of GDP?",
        ),
    ),
    "co2": _relation(
        "Environment/Carbon dioxide emissions/total emissions",
        rf"(?P<answer>{_NUMBER}(?: [mb]illion)?) metric",
        (
            "How much carbon dioxide does {n} emit?",
            "How many tonnes of CO2 come from {n}?",
            "What are the total carbon dioxide emissions of {n}?",
        ),
        ("How many tonnes of carbon dioxide does {n} emit?",),
        (
            "How high are the carbon dioxide emissions of {n}?",
            "How many metric tonnes of CO2 does {n} put into the air?",
        ),
    ),
}
