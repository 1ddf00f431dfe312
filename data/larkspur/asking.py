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
            "Which {PAD} did {it} depart from?", "From which {PAD} did {it} depart?")),
        "vehicle": ("mission", ("VEHICLE",), (
            "Which {VEHICLE} did they use for {it}?", "What type of {VEHICLE} did they use for {it}?")),
        "days": ("mission", ("DURATION",), (
            "What {DURATION} of time was intended for {it}?", "What {DURATION} of time did they intend for {it}?")),
        "objective": ("mission", ("OBJECTIVE",), (
            "What was the {OBJECTIVE} of {it}?", "What was the overall {OBJECTIVE} of {it}?")),
    },
    "crew": {
        "commander": ("mission", ("COMMANDER",), (
            "Who was the {COMMANDER} of {it}?", "Who flew as {COMMANDER} on {it}?")),
        "pilot": ("mission", ("PILOT",), (
            "Who was the {PILOT} on {it}?", "Who flew as {PILOT} on {it}?")),
        "engineer": ("mission", ("ENGINEER",), (
            "Who was the {ENGINEER} on {it}?", "Who flew as {ENGINEER} on {it}?")),
        "craft": ("mission", ("CRAFT", "NAMED"), (
            "What was the {CRAFT} of {it} {NAMED}?",)),
    },
    "description": {
        "supplier": ("comp", ("SUPPLIER", "MADE"), (
            "Which {SUPPLIER} {MADE} the {it}?",
            "Which {SUPPLIER} delivered the {it}?", "Who {MADE} the {it}?")),
        "metal": ("comp", ("METAL",), (
            "Which {METAL} did they choose for the {it}?", "Which {METAL} was chosen for the {it}?")),
        "place": ("comp", ("FITTED",), (
            "Where had they {FITTED} the {it}?", "Where exactly had they {FITTED} the {it}?")),
        "mass": ("comp", ("MASS",), (
            "What is the {MASS} of the {it}?", "What {MASS} did they assign to the {it}?")),
    },
    "test": {
        "tested": ("comp", ("TEST",), (
            "On which date was the {TEST} of the {it}?", "When was the {TEST} of the {it}?")),
        "lab": ("comp", ("LAB", "TEST"), (
            "Which {LAB} hosted the {TEST} of the {it}?",
            "In which {LAB} did the {TEST} of the {it} take place?")),
        "peak": ("comp", ("PEAK", "READING"), (
            "What was the {PEAK} {READING} in the {TEST} of the {it}?",
            "What was the {PEAK} {READING} measured on the {it}?")),
        "conductor": ("comp", ("CONDUCTOR", "TEST"), (
            "Who was the {CONDUCTOR} for the {TEST} of the {it}?",
            "Who was the {CONDUCTOR} at the {TEST} of the {it}?")),
    },
    "anomaly": {
        "comp": ("mission", ("ANOMALY",), (
            "Which {COMPONENT} had the {ANOMALY} on {it}?",
            "In which {COMPONENT} did the {ANOMALY} on {it} occur?")),
        "hour": ("comp", ("ANOMALY",), (
            "How far into the {FLIGHT} was the {ANOMALY} in the {it}?",
            "At what elapsed time was the {ANOMALY} in the {it}?")),
        "symptom": ("comp", ("SYMPTOM", "ANOMALY"), (
            "What was the {SYMPTOM} of the {ANOMALY} in the {it}?",
            "What was the earliest {SYMPTOM} of the {ANOMALY} in the {it}?")),
        "cause": ("comp", ("CAUSE", "ANOMALY"), (
            "What was the {CAUSE} behind the {ANOMALY} in the {it}?",)),
        "controller": ("comp", ("CONTROLLER", "NOTICED"), (
            "Which {CONTROLLER} {NOTICED} the {ANOMALY} in the {it}?",
            "Who {NOTICED} the {ANOMALY} in the {it}?")),
        "remedy": ("comp", ("REMEDY", "ANOMALY"), (
            "What {REMEDY} did they apply to the {ANOMALY} in the {it}?",
            "Which {REMEDY} ended the {ANOMALY} in the {it}?")),
    },
    "timeline": {
        "burn": ("mission", ("BURN",), (
            "At what elapsed time was the {BURN} on {it}?", "How much time passed before the {BURN} on {it}?")),
        "dock": ("mission", ("DOCKING",), (
            "At what elapsed time was the {DOCKING} on {it}?", "How much time passed before the {DOCKING} on {it}?")),
        "walk": ("mission", ("SPACEWALK", "BEGAN"), (
            "At what elapsed time was the {SPACEWALK} on {it}?",
            "How much time passed before the {SPACEWALK} {BEGAN} on {it}?")),
        "cast": ("mission", ("TELECAST",), (
            "At what elapsed time was the {TELECAST} on {it}?", "How much time passed before the {TELECAST} on {it}?")),
    },
    "recovery": {
        "ship": ("mission", ("SHIP", "RECOVERED"), (
            "Which {SHIP} {RECOVERED} the {CREW} of {it}?", "Which {SHIP} was sent to meet {it}?")),
        "basin": ("mission", ("SPLASHDOWN", "AREA"), (
            "In which {AREA} was the {SPLASHDOWN} of {it}?", "Where was the {SPLASHDOWN} of {it}?")),
        "wait": ("mission", ("WAIT",), (
            "How long was the {WAIT} at the end of {it}?",)),
        "heli": ("mission", ("HELICOPTER",), (
            "Which {HELICOPTER} flew out to meet {it}?", "What was the callsign of the {HELICOPTER} for {it}?")),
        "waves": ("mission", ("WAVES",), (
            "How high did the {WAVES} run when {it} got home?",)),
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
        "What was the {PEAK} {READING} observed on the {label} of the {it}?",
        "What was the {PEAK} {READING} measured on the {label} of the {it}?")),
    "recovery": ("wait", (
        "How long was the {WAIT} during the {label} {it}?",
        "How long a {WAIT} was there during the {label} {it}?")),
}  # fmt: skip

TWIN_LABELS = {
    ("test", "original"): "primary unit", ("test", "twin"): "{SPARE} unit",
    ("recovery", "original"): "actual return of", ("recovery", "twin"): "{REHEARSAL} for",
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
        "ship": (("the {FLIGHT} met by the {SHIP} {ship}", "the {FLIGHT} that the {SHIP} {ship} met"),
                 ("overview", "timeline", "crew")),
    },
    "description": {
        "supplier": (("{noun} {MADE} by {supplier}", "{noun} from {supplier}"), ("test", "anomaly")),
    },
    "test": {
        "conductor": (("{noun} whose {TEST} {conductor} led", "{noun} whose {TEST} {conductor} oversaw"),
                      ("description", "anomaly")),
    },
    "anomaly": {
        "controller": (("{noun} whose {ANOMALY} {controller} {NOTICED}",), ("description",)),
    },
}  # fmt: skip
