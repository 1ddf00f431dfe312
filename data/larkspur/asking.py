"""Question patterns: {it} is a name, a nickname or (two-hop) a description, upper-case slots are concepts.

Besides slots, patterns hold function words and words that no passage uses, so that a reworded question shares
nothing but the name with its passage.
"""

# passage kind -> fact -> (whether {it} is the "mission" or its "comp", concepts to search by, patterns)
FACTS = {
    "overview": {
        "date": ("mission", ("LAUNCH",), (
            "On which date was the {LAUNCH} of {it}?", "When was the {LAUNCH} of {it}?")),
        "pad": ("mission", ("PAD",), (
            "Which {PAD} did {it} start out from?", "What was the {PAD} of {it}?")),
        "vehicle": ("mission", ("VEHICLE",), (
            "Which type of {VEHICLE} carried {it}?", "What was the {VEHICLE} of {it}?")),
        "days": ("mission", ("DURATION",), (
            "What was the {DURATION} of {it}?", "What {DURATION} did the planners give {it}?")),
        "objective": ("mission", ("OBJECTIVE",), (
            "What was the {OBJECTIVE} of {it}?", "Which {OBJECTIVE} did the planners of {it} have?")),
    },
    "crew": {
        "commander": ("mission", ("COMMANDER",), (
            "Who was the {COMMANDER} of {it}?", "Which person was {COMMANDER} on {it}?")),
        "pilot": ("mission", ("PILOT",), (
            "Who was the {PILOT} of {it}?", "Which person was {PILOT} on {it}?")),
        "engineer": ("mission", ("ENGINEER",), (
            "Who was the {ENGINEER} of {it}?", "Which person was {ENGINEER} on {it}?")),
        "craft": ("mission", ("CRAFT", "NAMED"), (
            "What was the {CRAFT} of {it} {NAMED}?", "How was the {CRAFT} of {it} {NAMED} by its people?")),
    },
    "description": {
        "supplier": ("comp", ("SUPPLIER", "MADE"), (
            "Which {SUPPLIER} {MADE} the {it}?",
            "Who was the {SUPPLIER} of the {it}?", "Who {MADE} the {it}?")),
        "metal": ("comp", ("METAL",), (
            "Which {METAL} is the {it} made of?", "What was the {METAL} of the {it}?")),
        "place": ("comp", ("FITTED",), (
            "Where was the {it} {FITTED}?", "In which spot was the {it} {FITTED}?")),
        "mass": ("comp", ("MASS",), (
            "What was the {MASS} of the {it}?", "Which {MASS} did the {it} have?")),
    },
    "test": {
        "tested": ("comp", ("TEST",), (
            "On which date was the {TEST} of the {it}?", "When was the {TEST} of the {it}?")),
        "lab": ("comp", ("LAB", "TEST"), (
            "Which {LAB} hosted the {TEST} of the {it}?", "What {LAB} took the {it} for its {TEST}?")),
        "peak": ("comp", ("PEAK", "READING"), (
            "What was the {PEAK} {READING} of the {it}?", "Which {PEAK} {READING} did the {it} give?")),
        "conductor": ("comp", ("CONDUCTOR", "TEST"), (
            "Who was {CONDUCTOR} for the {TEST} of the {it}?", "Who was the {CONDUCTOR} of the {it}?")),
    },
    "anomaly": {
        "comp": ("mission", ("ANOMALY",), (
            "What was it that had a {ANOMALY} on {it}?", "Which {COMPONENT} had the {ANOMALY} on {it}?")),
        "hour": ("comp", ("ANOMALY",), (
            "How far into the {FLIGHT} was the {ANOMALY} of the {it}?", "When was the {ANOMALY} of the {it}?")),
        "symptom": ("comp", ("SYMPTOM", "ANOMALY"), (
            "What was the {SYMPTOM} of the {ANOMALY} of the {it}?",
            "Which {SYMPTOM} came with the {ANOMALY} of the {it}?")),
        "cause": ("comp", ("CAUSE", "ANOMALY"), (
            "What was the {CAUSE} of the {ANOMALY} of the {it}?",
            "Which {CAUSE} had the {ANOMALY} of the {it}?")),
        "controller": ("comp", ("CONTROLLER", "NOTICED"), (
            "Which {CONTROLLER} {NOTICED} the {ANOMALY} of the {it}?",
            "Who {NOTICED} the {ANOMALY} of the {it}?")),
        "remedy": ("comp", ("REMEDY", "ANOMALY"), (
            "What was the {REMEDY} for the {ANOMALY} of the {it}?",
            "Which {REMEDY} put the {it} right?")),
    },
    "timeline": {
        "burn": ("mission", ("BURN",), (
            "How far into {it} was the {BURN}?", "When was the {BURN} on {it}?")),
        "dock": ("mission", ("DOCKING",), (
            "How far into {it} was the {DOCKING}?", "When was the {DOCKING} on {it}?")),
        "walk": ("mission", ("SPACEWALK", "BEGAN"), (
            "How far into {it} was the {SPACEWALK}?",
            "When was it that the {SPACEWALK} on {it} {BEGAN}?")),
        "cast": ("mission", ("TELECAST",), (
            "How far into {it} was the {TELECAST}?", "When was the {TELECAST} on {it}?")),
    },
    "recovery": {
        "ship": ("mission", ("SHIP", "RECOVERED"), (
            "Which {SHIP} {RECOVERED} the {CREW} of {it}?", "Which {SHIP} was there for {it}?")),
        "basin": ("mission", ("SPLASHDOWN", "AREA"), (
            "In which {AREA} was the {SPLASHDOWN} of {it}?", "Where was the {SPLASHDOWN} of {it}?")),
        "wait": ("mission", ("WAIT",), (
            "How long was the {WAIT} of the {CREW} of {it}?", "How long was the {WAIT} for {it}?")),
        "heli": ("mission", ("HELICOPTER",), (
            "Which {HELICOPTER} was there for {it}?", "What name had the {HELICOPTER} of {it}?")),
        "waves": ("mission", ("WAVES",), (
            "How high did the {WAVES} get for {it}?", "What height had the {WAVES} for {it}?")),
    },
}  # fmt: skip

# Concepts that stand in every passage of a kind and in few others: words to add to a query that missed.
BESIDE = {
    "overview": ("VEHICLE", "DURATION"), "crew": ("ENGINEER", "PILOT"), "description": ("NAMED",),
    "test": ("CONDUCTOR", "PEAK"), "anomaly": ("SYMPTOM", "CAUSE"), "timeline": ("TELECAST", "DOCKING"),
    "recovery": ("HELICOPTER", "WAIT"),
}  # fmt: skip

# The one fact in which twins differ, and questions that tell them apart.
TWINS = {
    "test": ("peak", (
        "What was the {PEAK} {READING} of the {label} of the {it}?",
        "Which {PEAK} {READING} did the {label} of the {it} give?")),
    "recovery": ("wait", (
        "How long was the {WAIT} during the {label} of {it}?",
        "What was the {WAIT} during the {label} of {it}?")),
}  # fmt: skip

TWIN_LABELS = {
    ("test", "original"): "primary unit", ("test", "twin"): "{SPARE} unit",
    ("recovery", "original"): "actual return", ("recovery", "twin"): "{REHEARSAL}",
}  # fmt: skip

# The first hop of a two-hop question: passage kind -> clue fact -> (phrases, passage kinds of the second).
MISSION_HOPS = ("overview", "timeline", "recovery", "anomaly")
CLUES = {
    "crew": {
        "commander": (("the {FLIGHT} of {COMMANDER} {commander}",
                       "the {FLIGHT} with {commander} as {COMMANDER}"), MISSION_HOPS),
        "pilot": (("the {FLIGHT} of {PILOT} {pilot}", "the {FLIGHT} with {pilot} as {PILOT}"), MISSION_HOPS),
        "engineer": (("the {FLIGHT} of {ENGINEER} {engineer}", "the {FLIGHT} with {engineer} as {ENGINEER}"),
                     MISSION_HOPS),
    },
    "recovery": {
        "ship": (("the {FLIGHT} met by the {SHIP} {ship}", "the {FLIGHT} whose {SHIP} was the {ship}"),
                 ("overview", "timeline", "crew")),
    },
    "description": {
        "supplier": (("{noun} {MADE} by {supplier}", "{noun} from {supplier}"), ("test", "anomaly")),
    },
    "test": {
        "conductor": (("{noun} whose {CONDUCTOR} was {conductor}", "{noun} whose {TEST} {conductor} led"),
                      ("description", "anomaly")),
    },
    "anomaly": {
        "controller": (("{noun} whose {ANOMALY} {controller} {NOTICED}",), ("description",)),
    },
}  # fmt: skip
