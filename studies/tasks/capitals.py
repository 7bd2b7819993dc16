"""Capitals: "The capital of Spain is" against "The capital of Italy is"."""

__all__ = ["CAPITALS", "Capitals"]

import itertools
import random
from collections.abc import Iterator, Mapping
from types import MappingProxyType

CAPITALS: Mapping[str, str] = MappingProxyType(
    {
        "Afghanistan": "Kabul",
        "Albania": "Tirana",
        "Algeria": "Algiers",
        "Angola": "Luanda",
        "Argentina": "Buenos Aires",
        "Armenia": "Yerevan",
        "Australia": "Canberra",
        "Austria": "Vienna",
        "Azerbaijan": "Baku",
        "Bangladesh": "Dhaka",
        "Belarus": "Minsk",
        "Belgium": "Brussels",
        "Brazil": "Brasília",
        "Bulgaria": "Sofia",
        "Cambodia": "Phnom Penh",
        "Cameroon": "Yaoundé",
        "Canada": "Ottawa",
        "Chad": "N'Djamena",
        "Chile": "Santiago",
        "China": "Beijing",
        "Colombia": "Bogotá",
        "Croatia": "Zagreb",
        "Cuba": "Havana",
        "Cyprus": "Nicosia",
        "Denmark": "Copenhagen",
        "Ecuador": "Quito",
        "Egypt": "Cairo",
        "England": "London",
        "Eritrea": "Asmara",
        "Estonia": "Tallinn",
        "Ethiopia": "Addis Ababa",
        "Fiji": "Suva",
        "Finland": "Helsinki",
        "France": "Paris",
        "Georgia": "Tbilisi",
        "Germany": "Berlin",
        "Ghana": "Accra",
        "Greece": "Athens",
        "Guatemala": "Guatemala City",
        "Guinea": "Conakry",
        "Haiti": "Port-au-Prince",
        "Honduras": "Tegucigalpa",
        "Hungary": "Budapest",
        "Iceland": "Reykjavik",
        "India": "New Delhi",
        "Indonesia": "Jakarta",
        "Iran": "Tehran",
        "Iraq": "Baghdad",
        "Ireland": "Dublin",
        "Italy": "Rome",
        "Jamaica": "Kingston",
        "Japan": "Tokyo",
        "Jordan": "Amman",
        "Kazakhstan": "Astana",
        "Kenya": "Nairobi",
        "Kuwait": "Kuwait City",
        "Laos": "Vientiane",
        "Latvia": "Riga",
        "Lebanon": "Beirut",
        "Libya": "Tripoli",
        "Lithuania": "Vilnius",
        "Luxembourg": "Luxembourg",
        "Madagascar": "Antananarivo",
        "Malaysia": "Kuala Lumpur",
        "Mali": "Bamako",
        "Malta": "Valletta",
        "Mexico": "Mexico City",
        "Monaco": "Monaco",
        "Mongolia": "Ulaanbaatar",
        "Morocco": "Rabat",
        "Mozambique": "Maputo",
        "Nepal": "Kathmandu",
        "Netherlands": "Amsterdam",
        "Niger": "Niamey",
        "Nigeria": "Abuja",
        "Norway": "Oslo",
        "Oman": "Muscat",
        "Pakistan": "Islamabad",
        "Panama": "Panama City",
        "Paraguay": "Asunción",
        "Peru": "Lima",
        "Philippines": "Manila",
        "Poland": "Warsaw",
        "Portugal": "Lisbon",
        "Qatar": "Doha",
        "Romania": "Bucharest",
        "Russia": "Moscow",
        "Rwanda": "Kigali",
        "Scotland": "Edinburgh",
        "Senegal": "Dakar",
        "Serbia": "Belgrade",
        "Singapore": "Singapore",
        "Slovakia": "Bratislava",
        "Slovenia": "Ljubljana",
        "Somalia": "Mogadishu",
        "Spain": "Madrid",
        "Sudan": "Khartoum",
        "Sweden": "Stockholm",
        "Switzerland": "Bern",
        "Syria": "Damascus",
        "Taiwan": "Taipei",
        "Thailand": "Bangkok",
        "Tunisia": "Tunis",
        "Turkey": "Ankara",
        "Uganda": "Kampala",
        "Ukraine": "Kyiv",
        "Uruguay": "Montevideo",
        "Uzbekistan": "Tashkent",
        "Venezuela": "Caracas",
        "Vietnam": "Hanoi",
        "Wales": "Cardiff",
        "Yemen": "Sana'a",
        "Zambia": "Lusaka",
        "Zimbabwe": "Harare",
    }
)
"""Countries by names of one word, which most tokenisers make one token of, and their capitals (2025)."""


class Capitals:
    """Every ordered pair of distinct countries; the label is the source's capital."""

    name = "capitals"
    filter = "both_correct"
    aligned = True
    is_endless = False
    options = ()

    def candidates(self, *, seed: int, options: Mapping[str, object]) -> Iterator[Mapping[str, object]]:
        """See `PairTask.candidates`: ordered pairs, shuffled by `seed`; there are no options."""
        pairs = list(itertools.permutations(sorted(CAPITALS), 2))
        random.Random(seed).shuffle(pairs)
        for base, source in pairs:
            yield {
                "base": f"The capital of {base} is",
                "source": f"The capital of {source} is",
                "base_label": f" {CAPITALS[base]}",
                "source_label": f" {CAPITALS[source]}",
                "label": f" {CAPITALS[source]}",
                "base_country": base,
                "source_country": source,
                "span.country": base,
                "source.span.country": source,
            }
