"""The invented programme: pseudo-words, surface forms of its concepts, and one dict of facts per mission."""

import random
import re
import zlib
from typing import NamedTuple

# Three surface forms per concept, each with a Snowball stem of its own. A passage uses one of them, a
# reworded question another. Every world shares them: a policy can learn which words stand for which.
CONCEPTS = {
    "ANOMALY": ("malfunction", "fault", "failure"),
    "AREA": ("area", "zone", "region"),
    "BEGAN": ("began", "started", "commenced"),
    "BURN": ("burn", "firing", "ignition"),
    "CANOPY": ("parachute", "canopy", "chute"),
    "CAUSE": ("cause", "reason", "culprit"),
    "COMMANDER": ("commander", "skipper", "captain"),
    "COMPONENT": ("component", "part", "device"),
    "CONDUCTOR": ("director", "supervisor", "inspector"),
    "CONTROLLER": ("controller", "operator", "analyst"),
    "CRAFT": ("craft", "capsule", "module"),
    "CREW": ("crew", "team", "trio"),
    "DOCKING": ("docking", "rendezvous", "linkup"),
    "DURATION": ("duration", "length", "span"),
    "ENGINEER": ("engineer", "mechanic", "technician"),
    "FITTED": ("mounted", "installed", "fitted"),
    "FLIGHT": ("flight", "mission", "voyage"),
    "HELICOPTER": ("helicopter", "chopper", "aircraft"),
    "LAB": ("laboratory", "facility", "workshop"),
    "LAUNCH": ("launch", "liftoff", "departure"),
    "MADE": ("built", "manufactured", "fabricated"),
    "MASS": ("mass", "weight", "load"),
    "METAL": ("metal", "alloy", "material"),
    "NAMED": ("nicknamed", "dubbed", "called"),
    "NOTICED": ("noticed", "spotted", "detected"),
    "OBJECTIVE": ("objective", "goal", "purpose"),
    "PAD": ("spaceport", "cosmodrome", "base"),
    "PEAK": ("peak", "maximum", "highest"),
    "PILOT": ("pilot", "copilot", "aviator"),
    "PREPARED": ("trained", "practised", "prepared"),
    "READING": ("reading", "figure", "value"),
    "RECOVERED": ("recovered", "retrieved", "collected"),
    "REHEARSAL": ("rehearsal", "drill", "exercise"),
    "REMEDY": ("remedy", "fix", "solution"),
    "SHIP": ("ship", "vessel", "cutter"),
    "SPACEWALK": ("spacewalk", "excursion", "sortie"),
    "SPARE": ("spare", "backup", "reserve"),
    "SPLASHDOWN": ("splashdown", "touchdown", "landing"),
    "SUPPLIER": ("supplier", "maker", "contractor"),
    "SYMPTOM": ("symptom", "sign", "indication"),
    "TELECAST": ("telecast", "broadcast", "transmission"),
    "TEST": ("test", "trial", "evaluation"),
    "VEHICLE": ("launcher", "rocket", "booster"),
    "WAIT": ("wait", "delay", "pause"),
    "WAVES": ("waves", "swell", "seas"),
}

_STARTS = """
bal bel ber bor bran bren brin cal car cor cra dal dar del dor dren dul fal far fel fen fol gal gar gel gor
gral hal har hel hol hul jal jar jel jor kal kar kel ker kor lan lar len lor lun mal mar mel mor mul nal nar
nel nor ol or pal par pel por pral ral ren rol rul sal sar sel sol stel tal tar tel tol tral ul val var vel
vor wal wel wor yal yel yor zan zel zor
"""
_MIDDLES = """
a e i o u an ar el en er il in ol on or un
"""
_ENDS = """
bane bar beck bek brin burn by dack dan dell den dir doc don dra dren fane fell fen fin gan gar gen gon grim
ham hax hest kan kell ken kin kor lack lan lant leth lin lock lox mack man mar mere met min mond moth nack
nan nel nick nis nor pack pan pell pin rack ran rell ren rick rin rond roth sack san sel sen sin sk stan
tack tal tan tell ten thal tin tock ton tor vack vane vell ven vin vok wick win wock yard zan zel zin zock
"""
# Real words and names that the syllables happen to make.
_REAL = """
balden ballock balmere belfin belkin belmond belvin berden bergan berlin bordan borden bordon branton
brenham brinton calvin cardan carden carlock carpan carpin carrack carton corden cordon corlock corsack
cortin corven corvin crask dalton darbeck darden darvin darwin delbeck delfin dellock delmar delmond deltan
delton dormin dormond dorran dorsin dortan dorton fallock falman falmar felmond felton fenlock fenton galton
garden garlan garrack garrick geldan gelden gellan gelton gordon gorgon gorlock hallock halmet halten halton
harden harlan harrack harvin helmet helmond helton holdan holden hollan holven hulton jarvin jordan jordon
karbeck karman kelfin keltan kelvin kerman kernel lorbeck lorkan lorton lungen malden malton malvin marbane
marbeck markan marlin marlock marmere marmin marpan marten martin marvan marvin mellan melton melvin morden
morgan morton norden norman norsin norton norwick norwin olton orden ordon oregon organ orgen origen orlack
orlock ormond orrick orten orton palmar palmere paramet parator parden pardon parkin pelton porlock portal
renby renton rolfen selden seldon selkin selsin selton solvin tallock tarpan tarpin tarton telmet tolkin
ulator ultan ultor valdan vallan valmet valmond valtan varden vellan vorden walden walkan walken walnan
walton walvin welden welkin wellock welton worden worton yelton yelzin zeltan
"""
STARTS, MIDDLES, ENDS = (tuple(text.split()) for text in (_STARTS, _MIDDLES, _ENDS))
REAL = frozenset(_REAL.split())

MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October",
    "November", "December",
)  # fmt: skip
MADE_AT = (
    "Works", "Foundry", "Instruments", "Brothers", "Mills",
)  # fmt: skip
OBJECTIVES = (
    "crystal growth", "ice mapping", "crop imaging", "dust sampling", "radio calibration",
    "plasma research", "cloud photography", "seed germination", "debris tracking", "laser sounding",
    "bone studies", "flame research", "glass casting", "tether studies", "aurora imaging",
    "soil mapping", "meteor counting", "fluid research",
)  # fmt: skip
PLACES = (
    "the aft bay", "the forward bay", "the port bay", "the starboard bay", "the tank bay", "the keel bay",
    "the payload bay", "the nose cone", "the tail cone", "the service tunnel", "the equipment rack",
    "the cargo hold", "the upper collar", "the lower collar",
)  # fmt: skip


class Trade(NamedTuple):
    """Components of one sort, and the facts that fit all of them."""

    nouns: tuple[str, ...]
    metals: tuple[str, ...]  # all of them alloys, because "alloy" is a form of METAL
    measure: tuple[int, int, str]  # a test's peak reading: lowest, highest, unit
    troubles: tuple[tuple[str, str, str], ...]  # symptom, cause, remedy


TRADES = (
    Trade(
        ("vent valve", "feed pump", "pressure regulator", "drain valve", "water separator", "oxygen mixer",
         "coolant pump", "heat exchanger"),
        ("stainless steel", "bronze", "brass", "naval brass", "nickel steel"),
        (80, 400, "bar"),
        (("a loud hiss", "a cracked washer", "a tightened clamp"),
         ("a slow leak", "a swollen gasket", "a lower setting"),
         ("a falling pressure", "a blocked filter", "a bypass hose"),
         ("a sharp knock", "trapped air", "a slower cycle"),
         ("a film of ice", "trapped moisture", "a warm blanket"),
         ("a cloud of mist", "a torn membrane", "a rubber patch")),
    ),
    Trade(
        ("power relay", "signal amplifier", "battery charger", "clock oscillator", "data recorder", "radio receiver"),
        ("duralumin", "nickel silver", "beryllium copper", "phosphor bronze", "silicon steel"),
        (24, 240, "volts"),
        (("a blinking lamp", "a loose wire", "a strip of tape"),
         ("a burst of static", "a bent pin", "a new plug"),
         ("a falling voltage", "a blown fuse", "a new fuse"),
         ("a rising temperature", "a short circuit", "a second power feed"),
         ("a faint crackle", "a layer of dust", "a blast of air")),
    ),
    Trade(
        ("star tracker", "sun sensor", "fuel gauge", "horizon scanner", "radiation counter", "flow meter"),
        ("duralumin", "tungsten steel", "beryllium copper", "nickel silver", "chrome steel"),
        (200, 990, "millivolts"),
        (("a slow drift", "a software error", "a software patch"),
         ("a blank display", "a memory error", "a restart"),
         ("a frozen display", "a counting error", "a manual override"),
         ("a string of zeros", "a loose plug", "a cable tie"),
         ("a noisy signal", "a stray magnetic field", "a foil shield")),
    ),
    Trade(
        ("cable winch", "antenna drive", "gimbal motor", "sample arm", "cargo hoist", "boom actuator"),
        ("cobalt steel", "tool steel", "chrome steel", "manganese steel", "cast iron"),
        (200, 990, "newtons"),
        (("a steady whine", "a worn bearing", "a lower speed"),
         ("a rapid shudder", "a broken spring", "a rubber wedge"),
         ("a grinding noise", "iron filings", "a small magnet"),
         ("a jerky motion", "dried grease", "a drop of oil"),
         ("a dull rattle", "a loose bolt", "a longer screw")),
    ),
)  # fmt: skip


def in_partition(word: str, partition: str) -> bool:
    """Whether `word` may be used: a fifth of all pseudo-words is kept for the shipped corpus."""
    shipped = zlib.crc32(word.lower().encode()) % 5 == 0
    return shipped == (partition == "ship")


def words(rng: random.Random, partition: str):
    """Yield capitalised pseudo-words of the partition, each once."""
    used = set()
    while True:
        middle = rng.choice(MIDDLES) if rng.random() < 0.25 else ""
        word = rng.choice(STARTS) + middle + rng.choice(ENDS)
        if word not in used and word not in REAL and in_partition(word, partition):
            used.add(word)
            yield word.capitalize()


def person(names) -> str:
    return f"{next(names)} {next(names)}"


def day(rng: random.Random) -> str:
    return f"{rng.randint(1, 28)} {rng.choice(MONTHS)}"


def component(rng: random.Random, names, labs: list[str], noun: str, trade: Trade) -> dict:
    """The facts of one component, and the peak reading of its spare, which differs."""
    low, high, unit = trade.measure
    peak, spare_peak = rng.sample(range(low, high), 2)
    return {
        "comp": f"{next(names)} {noun}", "noun": noun.split()[-1], "nick": next(names),
        "supplier": f"{next(names)} {rng.choice(MADE_AT)}", "metal": rng.choice(trade.metals),
        "place": rng.choice(PLACES), "mass": f"{rng.randint(2, 29)}.{rng.randint(1, 9)} kilograms",
        "lab": rng.choice(labs),
        "peak": f"{peak} {unit}", "spare_peak": f"{spare_peak} {unit}", "conductor": person(names),
        "tested": day(rng), "runs": rng.randint(3, 9), "unit": "primary unit",
    }  # fmt: skip


def mission(rng: random.Random, names, shared: dict, year: int) -> dict:
    """The facts of one mission, its two components under "a" and "b"."""
    first, second = rng.sample([(noun, trade) for trade in TRADES for noun in trade.nouns], 2)
    symptom, cause, remedy = rng.choice(first[1].troubles)
    burn, dock, walk, cast = sorted(rng.sample(range(3, 150), 4))
    wait, drill_wait = rng.sample(range(18, 95), 2)
    return {
        "mission": next(names), "craft": next(names), "year": year, "date": day(rng),
        "pad": rng.choice(shared["pads"]), "vehicle": rng.choice(shared["vehicles"]),
        "days": f"{rng.randint(8, 40)} days", "objective": rng.choice(OBJECTIVES),
        "commander": person(names), "pilot": person(names), "engineer": person(names),
        "controller": person(names), "hour": f"{rng.randint(20, 180)} hours", "symptom": symptom,
        "cause": cause, "remedy": remedy, "burn": f"{burn} hours",
        "dock": f"{dock} hours", "walk": f"{walk} hours", "cast": f"{cast} hours", "ship": next(names),
        "heli": next(names), "basin": f"{next(names)} Basin", "wait": f"{wait} minutes",
        "drill_wait": f"{drill_wait} minutes", "waves": f"{rng.randint(1, 4)}.{rng.randint(1, 9)} metres",
        "occasion": "On the return of",
        "a": component(rng, names, shared["labs"], *first), "b": component(rng, names, shared["labs"], *second),
    }  # fmt: skip


def fill(pattern: str, facts: dict, forms: dict[str, str]) -> str:
    """Fill the slots, mend "a" before a vowel, start with a capital."""
    text = pattern.format_map({**facts, **forms})
    text = re.sub(r"\b([Aa]) (?=[aeiouAEIOU])", r"\1n ", text)
    return text[0].upper() + text[1:]


def choose_forms(rng: random.Random, other_than: dict[str, str] | None = None) -> dict[str, str]:
    """One surface form per concept; none of those in `other_than`."""
    taken = other_than or {}
    return {key: rng.choice([form for form in forms if form != taken.get(key)])
            for key, forms in CONCEPTS.items()}  # fmt: skip
