"""The invented programme: pseudo-words, surface forms of its concepts, and one dict of facts per mission."""

import random
import re
import zlib

# Three surface forms per concept, each with a Snowball stem of its own. A passage uses one of them, a
# reworded question another. Every world shares them: a policy can learn which words stand for which.
CONCEPTS = {
    "ANOMALY": ("malfunction", "fault", "failure"),
    "AREA": ("area", "zone", "region"),
    "BEGAN": ("began", "started", "commenced"),
    "BURN": ("burn", "firing", "ignition"),
    "CANOPY": ("parachute", "canopy", "sail"),
    "CAUSE": ("cause", "reason", "origin"),
    "COMMANDER": ("commander", "skipper", "captain"),
    "COMPONENT": ("component", "device", "assembly"),
    "CONDUCTOR": ("conductor", "supervisor", "examiner"),
    "CONTROLLER": ("controller", "dispatcher", "operator"),
    "CRAFT": ("craft", "capsule", "module"),
    "CREW": ("crew", "team", "trio"),
    "DOCKING": ("docking", "rendezvous", "coupling"),
    "DURATION": ("duration", "length", "span"),
    "ENDED": ("ended", "finished", "concluded"),
    "ENGINEER": ("engineer", "mechanic", "technician"),
    "FITTED": ("mounted", "installed", "fitted"),
    "FLIGHT": ("flight", "mission", "voyage"),
    "HELICOPTER": ("helicopter", "chopper", "rotorcraft"),
    "LAB": ("laboratory", "facility", "workshop"),
    "LAUNCH": ("launch", "liftoff", "departure"),
    "MADE": ("built", "manufactured", "fabricated"),
    "MASS": ("mass", "weight", "heft"),
    "METAL": ("metal", "alloy", "material"),
    "NAMED": ("nicknamed", "dubbed", "called"),
    "NOTICED": ("noticed", "spotted", "detected"),
    "OBJECTIVE": ("objective", "goal", "purpose"),
    "OCCURRED": ("occurred", "happened", "arose"),
    "PAD": ("spaceport", "cosmodrome", "range"),
    "PEAK": ("peak", "maximum", "highest"),
    "PILOT": ("pilot", "flier", "helmsman"),
    "PREPARED": ("trained", "practised", "prepared"),
    "READING": ("reading", "figure", "value"),
    "RECOVERED": ("recovered", "retrieved", "collected"),
    "REHEARSAL": ("rehearsal", "drill", "exercise"),
    "REMEDY": ("remedy", "fix", "cure"),
    "SELECTED": ("chosen", "selected", "picked"),
    "SHIP": ("ship", "vessel", "cutter"),
    "SPACEWALK": ("spacewalk", "excursion", "outing"),
    "SPARE": ("spare", "backup", "reserve"),
    "SPLASHDOWN": ("splashdown", "touchdown", "landing"),
    "SUPPLIER": ("supplier", "maker", "contractor"),
    "SYMPTOM": ("symptom", "sign", "indication"),
    "TELECAST": ("telecast", "broadcast", "transmission"),
    "TEST": ("test", "trial", "check"),
    "VEHICLE": ("vehicle", "rocket", "booster"),
    "WAIT": ("wait", "delay", "interval"),
    "WAVES": ("waves", "swell", "surf"),
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
NOUNS = (
    "vent valve", "feed pump", "power relay", "heat exchanger", "star tracker", "fuel gauge",
    "cabin fan", "pressure regulator", "drain valve", "signal amplifier", "battery charger",
    "hatch seal", "gimbal motor", "water separator", "oxygen mixer", "sun sensor", "tank heater",
    "clock oscillator", "data recorder", "window shutter", "wiring harness", "steering jet",
    "gas bottle", "coolant pump",
)  # fmt: skip
METALS = (
    "titanium", "nickel steel", "bronze", "brass", "magnesium", "aluminium", "stainless steel",
    "copper", "zirconium", "tungsten", "cobalt steel", "beryllium", "niobium", "cast iron", "zinc",
    "tantalum",
)  # fmt: skip
PLACES = (
    "the aft bay", "the nose ring", "the port locker", "the lower deck", "the centre console",
    "the service tunnel", "the forward bulkhead", "the upper frame", "the rear panel",
    "the equipment rack", "the starboard wall", "the heat shield", "the tank collar", "the keel beam",
)  # fmt: skip
SYMPTOMS = (
    "a steady whine", "a blinking lamp", "a smell of smoke", "a slow drift", "a sharp knock",
    "a cold wall", "a loud hiss", "a frozen needle", "a burst of static", "a falling voltage",
    "a rising temperature", "a dead display", "a rapid shudder", "a green vapour",
)  # fmt: skip
CAUSES = (
    "a cracked washer", "trapped moisture", "a loose wire", "iron filings", "a swollen gasket",
    "a bent pin", "dried grease", "a worn bearing", "a broken spring", "a blown fuse",
    "a blocked filter", "a poor weld", "a torn membrane", "a software error",
)  # fmt: skip
REMEDIES = (
    "a restart", "a bypass hose", "a strip of tape", "a new fuse", "a slower cycle",
    "a manual override", "a second power feed", "a lower setting", "a tightened clamp", "a warm soak",
    "a software patch", "a rubber wedge", "a longer cable", "a hand pump",
)  # fmt: skip
MEASURES = ((80, 400, "bar"), (150, 900, "degrees"), (200, 990, "newtons"))


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


def component(rng: random.Random, names, labs: list[str], noun: str) -> dict:
    """The facts of one component, and the peak reading of its spare, which differs."""
    low, high, unit = rng.choice(MEASURES)
    peak, spare_peak = rng.sample(range(low, high), 2)
    return {
        "comp": f"{next(names)} {noun}", "noun": noun.split()[-1], "nick": next(names),
        "supplier": f"{next(names)} {rng.choice(MADE_AT)}", "metal": rng.choice(METALS),
        "place": rng.choice(PLACES), "mass": f"{rng.randint(2, 60)}.{rng.randint(1, 9)} kilograms",
        "lab": rng.choice(labs),
        "peak": f"{peak} {unit}", "spare_peak": f"{spare_peak} {unit}", "conductor": person(names),
        "tested": day(rng), "runs": rng.randint(3, 9), "unit": "primary unit",
    }  # fmt: skip


def mission(rng: random.Random, names, shared: dict, year: int) -> dict:
    """The facts of one mission, its two components under "a" and "b"."""
    first, second = rng.sample(NOUNS, 2)
    burn, dock, walk, cast = sorted(rng.sample(range(3, 150), 4))
    wait, drill_wait = rng.sample(range(18, 95), 2)
    return {
        "mission": next(names), "craft": next(names), "year": year, "date": day(rng),
        "pad": rng.choice(shared["pads"]), "vehicle": rng.choice(shared["vehicles"]),
        "days": f"{rng.randint(8, 40)} days", "objective": rng.choice(OBJECTIVES),
        "commander": person(names), "pilot": person(names), "engineer": person(names),
        "controller": person(names), "hour": f"{rng.randint(20, 180)} hours", "symptom": rng.choice(SYMPTOMS),
        "cause": rng.choice(CAUSES), "remedy": rng.choice(REMEDIES), "burn": f"{burn} hours",
        "dock": f"{dock} hours", "walk": f"{walk} hours", "cast": f"{cast} hours", "ship": next(names),
        "heli": next(names), "basin": f"{next(names)} Basin", "wait": f"{wait} minutes",
        "drill_wait": f"{drill_wait} minutes", "waves": f"{rng.randint(1, 4)}.{rng.randint(1, 9)} metres",
        "occasion": "On the actual return of",
        "a": component(rng, names, shared["labs"], first), "b": component(rng, names, shared["labs"], second),
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
