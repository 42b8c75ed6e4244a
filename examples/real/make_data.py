#!/usr/bin/env python3
"""Writes the data of real.mopd next to itself: {domain}.train.jsonl and {domain}.test.jsonl.

    dates     a date in words, to be written as year-month-day: what the student shall learn
    capitals  the capital of a country: what the start knows already

A row is {"prompt", "answer"}. Only the standard library, one fixed seed: running it again writes the same bytes. No date
and no country is in both train and test.
"""

import datetime
import json
import random
from pathlib import Path

SEED = 2026
TRAIN, TEST = 240, 60  # dates; the countries are divided evenly
MONTHS = "January February March April May June July August September October November December".split()
FORMS = ["{day} {month} {year}", "{month} {day}, {year}", "the {day}{th} of {month} {year}"]
CAPITALS = """
Afghanistan Kabul, Albania Tirana, Algeria Algiers, Angola Luanda, Argentina Buenos_Aires, Armenia Yerevan,
Australia Canberra, Austria Vienna, Azerbaijan Baku, Bahrain Manama, Bangladesh Dhaka, Barbados Bridgetown,
Belarus Minsk, Belgium Brussels, Bolivia La_Paz, Brazil Brasilia, Bulgaria Sofia, Cambodia Phnom_Penh,
Cameroon Yaounde, Canada Ottawa, Chad N'Djamena, Chile Santiago, China Beijing, Colombia Bogota, Costa_Rica San_Jose,
Croatia Zagreb, Cuba Havana, Cyprus Nicosia, Denmark Copenhagen, Ecuador Quito, Egypt Cairo, Estonia Tallinn,
Ethiopia Addis_Ababa, Fiji Suva, Finland Helsinki, France Paris, Georgia Tbilisi, Germany Berlin, Ghana Accra,
Greece Athens, Guinea Conakry, Haiti Port-au-Prince, Honduras Tegucigalpa, Hungary Budapest, Iceland Reykjavik,
India New_Delhi, Indonesia Jakarta, Iran Tehran, Iraq Baghdad, Ireland Dublin, Italy Rome, Jamaica Kingston,
Japan Tokyo, Jordan Amman, Kenya Nairobi, Laos Vientiane, Latvia Riga, Lebanon Beirut, Libya Tripoli,
Lithuania Vilnius, Madagascar Antananarivo, Malaysia Kuala_Lumpur, Mali Bamako, Malta Valletta, Mongolia Ulaanbaatar,
Morocco Rabat, Mozambique Maputo, Namibia Windhoek, Nepal Kathmandu, Nicaragua Managua, Niger Niamey, Nigeria Abuja,
Norway Oslo, Oman Muscat, Pakistan Islamabad, Paraguay Asuncion, Peru Lima, Poland Warsaw, Portugal Lisbon, Qatar Doha,
Romania Bucharest, Russia Moscow, Rwanda Kigali, Saudi_Arabia Riyadh, Senegal Dakar, Serbia Belgrade, Slovakia Bratislava,
Slovenia Ljubljana, Somalia Mogadishu, South_Korea Seoul, Spain Madrid, Sudan Khartoum, Sweden Stockholm, Syria Damascus,
Thailand Bangkok, Tunisia Tunis, Turkey Ankara, Uganda Kampala, Ukraine Kyiv, Uruguay Montevideo, Venezuela Caracas,
Vietnam Hanoi, Yemen Sanaa, Zambia Lusaka, Zimbabwe Harare
"""


def dates(rng):
    first, last = datetime.date(1900, 1, 1), datetime.date(2029, 12, 31)
    for day in rng.sample(range((last - first).days + 1), TRAIN + TEST):
        date = first + datetime.timedelta(days=day)
        # 11th, 12th and 13th, but 21st, 22nd and 23rd.
        th = "th" if 10 < date.day < 14 else {1: "st", 2: "nd", 3: "rd"}.get(date.day % 10, "th")
        words = rng.choice(FORMS).format(day=date.day, month=MONTHS[date.month - 1], year=date.year, th=th)
        yield {"prompt": f"Write {words} as year-month-day.", "answer": date.isoformat()}


def capitals(rng):
    pairs = []
    for pair in CAPITALS.replace("\n", " ").split(","):
        country, capital = (name.replace("_", " ") for name in pair.split())
        pairs.append({"prompt": f"What is the capital of {country}?", "answer": capital})
    rng.shuffle(pairs)
    return pairs


def write(domain, train, test):
    for name, rows in [("train", train), ("test", test)]:
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        Path(__file__).with_name(f"{domain}.{name}.jsonl").write_text(text, encoding="utf-8")


rows = list(dates(random.Random(f"{SEED} dates")))
write("dates", rows[:TRAIN], rows[TRAIN:])
rows = capitals(random.Random(f"{SEED} capitals"))
write("capitals", rows[: len(rows) // 2], rows[len(rows) // 2 :])
