"""Sentence patterns. Lower-case slots are facts, upper-case slots concepts (one surface form per passage).

Each passage kind has titles (unspecific, because titles are indexed too), an opening and further sentences in
a natural order; each sentence is a tuple of patterns to choose from. Every pattern follows from every one before it,
and SWAPS names the neighbours that may change places. Last sentences without a fact carry concept words of other
passages, as reports do, and so give a reworded question something else to hit. No pattern spells out a surface form.
"""

MISSION_TITLES = ("{mission}, section {n}", "{mission} file {n}", "{mission}: note {n}")
COMP_TITLES = ("{comp}, note {n}", "{mission}, section {n}", "{mission} file {n}")

PASSAGES = {
    "overview": (
        MISSION_TITLES,
        (
            "The {LAUNCH} of {mission} was on {date} {year} from {pad}, a {PAD} on the coast.",
            "On {date} {year} the {LAUNCH} of {mission} went ahead at the {PAD} of {pad}.",
            "The {PAD} at {pad} saw the {LAUNCH} of {mission} on {date} {year}.",
        ),
        (
            "The {VEHICLE} was a {vehicle}, and it went up through thin cloud without any trouble.",
            "The {VEHICLE}, a {vehicle}, rose smoothly and was soon out of sight.",
            "A {vehicle} served as the {VEHICLE}, and the countdown went by without a hold.",
        ),
        (
            "The {OBJECTIVE} of the {FLIGHT} was {objective}, long wanted by several universities.",
            "With {objective} as its {OBJECTIVE}, the {FLIGHT} had drawn much interest.",
            "The {OBJECTIVE} of the {FLIGHT}, agreed a year before, was {objective}.",
        ),
        (
            "The planned {DURATION} was {days}, with supplies for a few more.",
            "The planners had set a {DURATION} of {days}, with a small margin.",
            "The schedule gave a {DURATION} of {days}, and not one more.",
        ),
        (
            "To bring {mission} back, a {SHIP} was to stand by with a {HELICOPTER} on deck.",
            "Behind the {CREW} lay two years of work and a last {REHEARSAL} with {SHIP} and {HELICOPTER}.",
            "That evening the {COMMANDER} of {mission} was content, and no {CONTROLLER} saw a {SYMPTOM} of trouble.",
            "By nightfall the {PILOT} had seen no odd {READING}, and no {COMPONENT} had shown a {ANOMALY}.",
        ),
    ),
    "crew": (
        MISSION_TITLES,
        (
            "The {CREW} of {mission} had {commander} as its {COMMANDER} from the first day.",
            "{commander} served as {COMMANDER} of {mission} and joined the rest of the {CREW} in spring.",
            "For {mission} the programme chose {commander} as {COMMANDER} of the {CREW}.",
        ),
        (
            "The {PILOT} was {pilot}, the youngest of the three.",
            "{pilot} sat in the right-hand seat as {PILOT} and kept the charts.",
            "{pilot}, a former instructor, was the {PILOT}.",
        ),
        (
            "{engineer} came along as {ENGINEER} and looked after the supplies.",
            "The {ENGINEER} was {engineer}, who had been in space once before.",
            "The work of the {ENGINEER} fell to {engineer}, back after two years away.",
        ),
        (
            "Among themselves they {NAMED} their {CRAFT} the {craft}.",
            "Their {CRAFT} was {NAMED} the {craft} after a joke in the canteen.",
            "They {NAMED} their {CRAFT} the {craft}, and the name stuck.",
        ),
        (
            "They {PREPARED} for a year, with a {SPACEWALK} {REHEARSAL} every month.",
            "They {PREPARED} for the {SPLASHDOWN} of {mission} in a pool and then went out with a {SHIP}.",
            "They {PREPARED} for every kind of {ANOMALY} and watched each {TEST} of the {VEHICLE}.",
            "They {PREPARED} for the {LAUNCH} all winter and studied the {OBJECTIVE} for months.",
        ),
    ),
    "description": (
        COMP_TITLES,
        (
            "{mission} carried the {comp}, which was soon {NAMED} the {nick}.",
            "The {comp} of {mission} was {NAMED} the {nick} by the people who handled it.",
            "One {COMPONENT} aboard {mission} was the {comp}, {NAMED} the {nick} on the shop floor.",
        ),
        (
            "The {SUPPLIER} was {supplier}, which had {MADE} similar equipment before.",
            "The {noun} was {MADE} by {supplier}, a {SUPPLIER} of long standing.",
            "{supplier}, the {SUPPLIER}, {MADE} this {noun} and three more.",
        ),
        (
            "The housing is {metal}, a {METAL} that wears well.",
            "For the housing the designers chose {metal}, a {METAL} they knew well.",
            "The housing is of {metal}, a {METAL} proven over the years.",
        ),
        (
            "The {noun} was {FITTED} in {place}, where it is easy to reach.",
            "Workers {FITTED} the {noun} behind a cover in {place}.",
            "Six bolts secure the {noun}, which was {FITTED} in {place}.",
        ),
        (
            "With brackets, its {MASS} comes to {mass}.",
            "It accounts for a {MASS} of {mass}, brackets included.",
            "The planners put its {MASS} at {mass}.",
        ),
        (
            "It had come through a {TEST} in the {LAB} before it left the factory.",
            "A {CONDUCTOR} watched it for two weeks and saw no {ANOMALY}.",
            "From the ground, a {CONTROLLER} can follow its state on a separate dial.",
            "On its dial the {PEAK} {READING} allowed is marked in red.",
        ),
    ),
    "test": (
        COMP_TITLES,
        (
            "The {unit} of the {comp} for {mission} went through its {TEST} on {tested}.",
            "On {tested} the {unit} of the {comp} for {mission} passed its {TEST}.",
            "The {TEST} of the {unit} of the {comp} for {mission} was held on {tested}.",
        ),
        (
            "The work was done in the {LAB} at {lab}, behind closed doors.",
            "The {noun} stood on a bench in the {lab} {LAB} all day.",
            "The {lab} {LAB} had lent its largest chamber for the day.",
        ),
        (
            "The {PEAK} {READING} was {peak}, reached in the last round.",
            "Over {runs} rounds the {PEAK} {READING} came to {peak}.",
            "Shortly before noon the dials showed the {PEAK} {READING}, {peak}.",
        ),
        (
            "The {CONDUCTOR} was {conductor}, who stood by throughout.",
            "{conductor} was there as {CONDUCTOR} and kept the log by hand.",
            "{conductor}, as {CONDUCTOR}, halted the work twice for safety.",
        ),
        (
            "The {SUPPLIER} had two people there to watch and to pack up afterwards.",
            "The {COMMANDER} of {mission} came by to watch, and no {ANOMALY} was seen.",
            "The {SUPPLIER} then packed up the {noun}, ready to be {FITTED} when needed.",
            "The {METAL} showed no damage, a relief to those who had {MADE} the {noun}.",
        ),
    ),
    "anomaly": (
        MISSION_TITLES,
        (
            "On {mission} the {comp} suffered a {ANOMALY} {hour} into the {FLIGHT}.",
            "{mission} was {hour} into its {FLIGHT} when the {comp} suffered a {ANOMALY}.",
            "There was a {ANOMALY} in the {comp} of {mission} {hour} into the {FLIGHT}.",
        ),
        (
            "The first {SYMPTOM} was {symptom}, and it did not go away.",
            "At first, {symptom} was the only {SYMPTOM}.",
            "The only {SYMPTOM} was {symptom}, which is listed in the handbook.",
        ),
        (
            "The trouble with the {noun} was {NOTICED} by {controller}, the {CONTROLLER} on duty.",
            "{controller}, a {CONTROLLER} on the night shift, {NOTICED} the trouble within minutes.",
            "On the ground, {CONTROLLER} {controller} {NOTICED} the trouble with the {noun} at once.",
        ),
        (
            "The {CAUSE} turned out to be {cause}.",
            "By evening the experts had named {cause} as the {CAUSE}.",
            "A group of experts found the {CAUSE} to be {cause}.",
        ),
        (
            "The {REMEDY} was {remedy}, and it held from then on.",
            "As a {REMEDY} the three aboard tried {remedy}, which worked.",
            "Soon the three aboard had found a {REMEDY}: {remedy}.",
        ),
        (
            "The {SUPPLIER} was informed, since no {TEST} had shown anything of the kind.",
            "The {COMMANDER} saw no need to change the {DURATION} or the {OBJECTIVE} of the {FLIGHT}.",
            "Back on the ground, the {noun} proved to be properly {FITTED} and its {METAL} sound.",
            "A {LAB} later put the {SPARE} unit of the {comp} through a second {TEST}.",
        ),
    ),
    "timeline": (
        MISSION_TITLES,
        (
            "The log of {mission} puts the main motor {BURN} at {burn} into the {FLIGHT}.",
            "On {mission} the {BURN} of the main motor came {burn} into the {FLIGHT}, as planned.",
            "{mission} was {burn} into its {FLIGHT} at the {BURN} of the main motor.",
        ),
        (
            "The {DOCKING} with the station came at {dock}, on the second try.",
            "At {dock} the {DOCKING} with the station was complete and the hatches were opened.",
            "The {DOCKING} with the station followed at {dock}, in full sunlight.",
        ),
        (
            "The only {SPACEWALK} {BEGAN} at {walk} and went well.",
            "At {walk} the only {SPACEWALK} {BEGAN}, a little late because of a stiff glove.",
            "A {SPACEWALK} {BEGAN} at {walk} and was kept short to save air.",
        ),
        (
            "A public {TELECAST} went out at {cast} and was seen in nine countries.",
            "At {cast} a {TELECAST} for schools went out, with questions from pupils.",
            "Last came a {TELECAST} for schools at {cast}, with poor sound.",
        ),
        (
            "The {PILOT} of {mission} kept the log, and the {COMMANDER} went over it each evening.",
            "Between these events the {ENGINEER} of {mission} looked over every {COMPONENT}.",
            "Between these events the {CREW} of {mission} tidied the {CRAFT} and worked towards the {OBJECTIVE}.",
            "The {CREW} of {mission} heard the same day that the empty {VEHICLE} had been found.",
        ),
    ),
    "recovery": (
        MISSION_TITLES,
        (
            "{occasion} {mission}, the {CREW} was {RECOVERED} by the {SHIP} {ship}.",
            "{occasion} {mission}, the {SHIP} {ship} {RECOVERED} the {CREW} before noon.",
            "{occasion} {mission}, the {SHIP} {ship} was first on the scene and {RECOVERED} the {CREW}.",
        ),
        (
            "The {SPLASHDOWN} was in the {basin}, a quiet {AREA}.",
            "The {AREA} of the {SPLASHDOWN} was the {basin}, far from the trade routes.",
            "The {basin}, a quiet {AREA}, had been kept clear for the {SPLASHDOWN}.",
        ),
        (
            "The {WAVES} reached {waves} that morning.",
            "The lookout reported {WAVES} of {waves}.",
            "In {WAVES} of {waves} the {CRAFT} rolled from side to side.",
        ),
        (
            "Overhead circled {heli}, a {HELICOPTER} with two divers.",
            "Two divers jumped from {heli}, the nearest {HELICOPTER}.",
            "A {HELICOPTER} known on the radio as {heli} dropped two divers.",
        ),
        (
            "A {WAIT} of {wait} followed before the hatch was opened.",
            "There was a {WAIT} of {wait} while a tangled line was cut.",
            "The {WAIT} in the water lasted {wait}, with the hatch still shut.",
        ),
        (
            "The {COMMANDER} of {mission} was the last to leave, and the {CRAFT} was hoisted aboard.",
            "Last of all each {CANOPY} was fished out of the water, as the {PILOT} looked on.",
            "The {ENGINEER} stayed on deck until the last {CANOPY} had been folded away.",
            "On deck the {COMMANDER} of {mission} handed over the papers of the {FLIGHT}, safe and dry.",
        ),
    ),
}

# Passage kind -> which of its further sentences, counted from 0, may change places with the next one.
SWAPS = {"overview": (1,), "crew": (0,), "description": (0,), "test": (1,), "recovery": (0, 1)}

# Programme passages belong to no mission and to no question: they are there to be found by mistake.
PROGRAMME = {
    "pad": (
        ("{place}", "{place}, programme notes", "Larkspur notes on {place}"),
        ("{place} is a {PAD} of the Larkspur programme.",
         "The {PAD} at {place} serves the Larkspur programme."),
        ("Each {VEHICLE} arrives by rail and is raised a week before {LAUNCH}.",
         "Each {VEHICLE} arrives by rail and lies in a long shed until the week of {LAUNCH}."),
        ("On the eve the {CREW} sleeps in a low building by the gate and eats with the {CONTROLLER} on duty.",
         "The {CREW} spends the last night by the gate, one door from the {CONTROLLER} on duty."),
        ("At dawn the roads are closed, and from then on only a storm can hold up the {FLIGHT}.",
         "At dawn the roads are closed, though storms have put off more than one {FLIGHT}."),
        ("After {LAUNCH} the ground is washed, and every scrap of {METAL} is gathered by hand.",
         "After {LAUNCH} each {COMPONENT} left behind is labelled and goes back to its {SUPPLIER}."),
    ),
    "vehicle": (
        ("{place}", "{place}, programme notes", "Larkspur notes on the {place}"),
        ("The {place} is a {VEHICLE} of the Larkspur programme.",
         "Larkspur owns the {place}, a {VEHICLE} of two stages."),
        ("It was {MADE} in small numbers, and no two copies can carry quite the same {MASS}.",
         "Every copy was {MADE} by hand, so the {MASS} that it can carry varies a little."),
        ("Before each {LAUNCH} both stages are lit for a short {TEST}.",
         "A short {TEST} of both stages comes before each {LAUNCH}."),
        ("If one pump stops after a {ANOMALY}, the others work longer and the {FLIGHT} goes on.",
         "After a {ANOMALY} the {COMMANDER} may shut down one pump and go on with the {FLIGHT}."),
        ("The spent stages drop under a {CANOPY} and are towed back by a {SHIP}.",
         "A {SHIP} looks for the spent stages, though now and then a {CANOPY} sinks first."),
    ),
    "rule": (
        ("Larkspur rules, section {n}", "Programme rules {n}", "Rules of the Larkspur programme {n}"),
        ("On board, the {COMMANDER} has the last word, and the whole {CREW} must obey.",
         "Every {COMPONENT} has a formal name, which all papers give, whatever it is {NAMED} in the shop.",
         "A {SPARE} unit of each {COMPONENT} is kept and goes through the same {TEST} as the first."),
        ("Any {SYMPTOM} of trouble is written down at once, even if no {CAUSE} is known.",
         "A {CONTROLLER} may suggest a {REMEDY} but may not order one."),
        ("The {CONDUCTOR} of a {TEST} may not work for the {SUPPLIER}.",
         "A {LAB} keeps each {READING} for ten years, and the {PEAK} one for ever."),
        ("The {SHIP} and the {HELICOPTER} hold one {REHEARSAL} before every {SPLASHDOWN}.",
         "In heavy {WAVES} the {SPLASHDOWN} moves to another {AREA} or to another day."),
        ("No {SPACEWALK} may come before the {DOCKING}.",
         "No {TELECAST} may go out during a {BURN}."),
    ),
}  # fmt: skip

REFUSALS = (
    "No summary of {title} can be given.",
    "I am sorry, but I cannot describe {title} without more context.",
    "The text of {title} was not available when these notes were made.",
)
