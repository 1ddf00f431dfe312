"""Sentence patterns. Lower-case slots are facts, upper-case slots concepts (one surface form per passage).

Each passage kind has titles (unspecific, because titles are indexed too), an opening and further sentences in
a natural order, of which two neighbours may be swapped; each sentence is a tuple of patterns to choose from.
Sentences without a fact carry concept words of other passages, as reports do, and so give a reworded question
something else to hit. No pattern spells out a surface form.
"""

MISSION_TITLES = ("{mission}, section {n}", "{mission} file {n}", "{mission}: note {n}")
COMP_TITLES = ("{comp}, note {n}", "{mission}, section {n}", "{mission} file {n}")

PASSAGES = {
    "overview": (
        MISSION_TITLES,
        (
            "The {LAUNCH} of {mission} from {pad}, a coastal {PAD}, was on {date} {year}.",
            "The {LAUNCH} of {mission} took place on {date} {year} at the {PAD} of {pad}.",
            "On {date} {year} the {LAUNCH} of {mission} went ahead at {pad}, a {PAD} on the coast.",
        ),
        (
            "A new {vehicle} was the {VEHICLE}, and it rose smoothly through thin cloud.",
            "As {VEHICLE} it had a {vehicle}, the usual choice for work of this size.",
            "The {VEHICLE} was a {vehicle}, and the count went down without a hold.",
        ),
        (
            "The planned {DURATION} was {days}, with stores on board for a little more.",
            "{mission} was packed for a {DURATION} of {days} and not a day longer.",
            "The office set a {DURATION} of {days} and allowed a small margin.",
        ),
        (
            "The main {OBJECTIVE} of the {FLIGHT} was {objective}, and little else was asked.",
            "The {FLIGHT} had {objective} as its first {OBJECTIVE}, ahead of school work.",
            "Its chief {OBJECTIVE} was {objective}, agreed a year before the {FLIGHT}.",
        ),
        (
            "Every {SUPPLIER} had sent in its {TEST} papers, and the {SHIP} was already at sea.",
            "The {CREW} was through with its last {REHEARSAL} with the {HELICOPTER} and the {SHIP}.",
            "The {COMMANDER} of {mission} reported no {ANOMALY} in any {COMPONENT} on the way up.",
            "The {PILOT} had no odd {READING}, and no {CONTROLLER} saw a {SYMPTOM} of trouble.",
        ),
    ),
    "crew": (
        MISSION_TITLES,
        (
            "The {CREW} of {mission} had {commander} as its {COMMANDER} from the first day.",
            "{commander} served as {COMMANDER} of {mission} and met the rest of the {CREW} in spring.",
            "For {mission} the programme named {commander} as {COMMANDER} of the {CREW}.",
        ),
        (
            "The {PILOT} was {pilot}, new to the programme and the youngest of them.",
            "{pilot} sat in the right-hand seat as {PILOT} and kept the charts.",
            "The seat of the {PILOT} went to {pilot}, a former instructor.",
        ),
        (
            "{engineer} went along as {ENGINEER} and looked after the stores.",
            "The {ENGINEER} was {engineer}, on a second journey.",
            "The work of the {ENGINEER} fell to {engineer}, back after two years.",
        ),
        (
            "Among themselves they soon {NAMED} their {CRAFT} the {craft}.",
            "Their {CRAFT} was {NAMED} the {craft} after a joke in the canteen.",
            "Their {CRAFT} was soon {NAMED} the {craft} by everyone on the ground.",
        ),
        (
            "They {PREPARED} for a year, with a {REHEARSAL} of the {SPACEWALK} every month.",
            "For the {SPLASHDOWN} of {mission} they {PREPARED} in a pool and met the {SHIP} in harbour.",
            "They {PREPARED} for each {ANOMALY} on the list and watched every {TEST} of the {VEHICLE}.",
            "They {PREPARED} for the {LAUNCH} with great care and studied the {OBJECTIVE} for months.",
        ),
    ),
    "description": (
        COMP_TITLES,
        (
            "{mission} carried the {comp}, which was {NAMED} the {nick} in daily use.",
            "The {comp} of {mission} was {NAMED} the {nick} by those who handled it.",
            "One {COMPONENT} of {mission} was the {comp}, {NAMED} the {nick} on the shop floor.",
        ),
        (
            "The {SUPPLIER} was {supplier}, which had {MADE} similar items before.",
            "It was {MADE} by {supplier}, a {SUPPLIER} of long standing.",
            "{supplier} was the {SUPPLIER} and {MADE} four copies of it.",
        ),
        (
            "The body of the {noun} is {metal}, a {METAL} that stands up to cold.",
            "For the {noun} the designers asked for {metal}, the {METAL} they knew best.",
            "Its main {METAL} is {metal}, machined in one piece.",
        ),
        (
            "The {noun} was {FITTED} in {place}.",
            "It was {FITTED} behind a cover in {place}.",
            "Workers {FITTED} the {noun} in {place} with six bolts.",
        ),
        (
            "Its {MASS} is {mass} with brackets.",
            "With brackets the {MASS} comes to {mass}.",
            "Drawings give a {MASS} of {mass}.",
        ),
        (
            "A {TEST} in the {LAB} came later in the year.",
            "The {CONDUCTOR} saw no {ANOMALY} in the weeks that came after.",
            "The {CONTROLLER} on the ground can follow it on a dial of its own.",
            "The {PEAK} {READING} allowed is marked in red on the dial.",
        ),
    ),
    "test": (
        COMP_TITLES,
        (
            "The {unit} of the {comp} for {mission} went through its {TEST} on {tested}.",
            "On {tested} the {unit} of the {comp} for {mission} was put through a {TEST}.",
            "The {TEST} of the {unit} of the {comp} for {mission} was held on {tested}.",
        ),
        (
            "The work was done in the {LAB} at {lab} behind closed doors.",
            "It stood on a bench in the {lab} {LAB} for two days.",
            "The {lab} {LAB} lent its large chamber for two nights.",
        ),
        (
            "The {PEAK} {READING} was {peak}, reached in the last run.",
            "In {runs} runs the {PEAK} {READING} came to {peak}.",
            "The gauges showed a {PEAK} {READING} of {peak} near noon.",
        ),
        (
            "The {CONDUCTOR} was {conductor}, who sealed the papers the same evening.",
            "{conductor} acted as {CONDUCTOR} and kept the log by hand.",
            "{conductor}, as {CONDUCTOR}, stopped the clock twice for safety.",
        ),
        (
            "The {SUPPLIER} sent two people to watch and to carry the cases.",
            "The {COMMANDER} of {mission} came by to watch, and no {ANOMALY} was seen.",
            "The {noun} was then {FITTED} with a cover by people from the {SUPPLIER}.",
            "The {METAL} kept its colour, as those who had {MADE} it expected.",
        ),
    ),
    "anomaly": (
        MISSION_TITLES,
        (
            "On {mission} the {comp} suffered a {ANOMALY} {hour} after leaving the ground.",
            "{hour} into {mission} a {ANOMALY} of the {comp} {OCCURRED}.",
            "A {ANOMALY} of the {comp} {OCCURRED} on {mission} at {hour} elapsed.",
        ),
        (
            "The first {SYMPTOM} was {symptom}.",
            "The trouble showed itself by {symptom}, a {SYMPTOM} listed in the handbook.",
            "The only {SYMPTOM} was {symptom}.",
        ),
        (
            "The trouble was {NOTICED} by {controller}, the {CONTROLLER} on duty.",
            "{controller}, a {CONTROLLER} on the night shift, {NOTICED} the trouble.",
            "On the ground, {CONTROLLER} {controller} {NOTICED} it at once.",
        ),
        (
            "The {CAUSE} was {cause}.",
            "Later study gave {cause} as the {CAUSE}.",
            "A board found the {CAUSE} to be {cause}.",
        ),
        (
            "The {REMEDY} was {remedy}, and that held from then on.",
            "As a {REMEDY} the three aboard used {remedy}.",
            "After an hour {remedy} proved to be the {REMEDY}.",
        ),
        (
            "The {SUPPLIER} was told, though the {TEST} had shown nothing.",
            "The {COMMANDER} asked for no change in {DURATION} or {OBJECTIVE}.",
            "The {METAL} was sound, and the {noun} had been {FITTED} as drawn.",
            "The {LAB} later put the {SPARE} copy of the {comp} through a second {TEST}.",
        ),
    ),
    "timeline": (
        MISSION_TITLES,
        (
            "The log of {mission} gives the main stage {BURN} at {burn} elapsed, close to plan.",
            "On {mission} the main stage {BURN} came {burn} after leaving the ground, as planned.",
            "For {mission} the main stage {BURN} is logged at {burn} elapsed, a little early.",
        ),
        (
            "The {DOCKING} with the station came at {dock}, on the second try.",
            "At {dock} the {DOCKING} with the station was complete and the hatches were opened.",
            "The log has the {DOCKING} with the station at {dock}, in full sunlight.",
        ),
        (
            "The only {SPACEWALK} {BEGAN} at {walk} and went as planned.",
            "At {walk} the {SPACEWALK} {BEGAN}, later than planned because of a stiff glove.",
            "A {SPACEWALK} {BEGAN} at {walk} and was kept short to save air.",
        ),
        (
            "The public {TELECAST} went out at {cast} and was seen in nine countries.",
            "At {cast} a {TELECAST} was sent to schools, with questions from pupils.",
            "The {TELECAST} for schools is logged at {cast}, with poor sound.",
        ),
        (
            "The {PILOT} of {mission} kept the log, and the {COMMANDER} went over it each evening.",
            "On {mission} the {ENGINEER} watched each {COMPONENT} while the others slept.",
            "Between events the {CREW} of {mission} went back to its {OBJECTIVE} and aired the {CRAFT}.",
            "The {CREW} of {mission} heard on day one that the empty {VEHICLE} had been found.",
        ),
    ),
    "recovery": (
        MISSION_TITLES,
        (
            "{occasion} {mission} the {CREW} was {RECOVERED} by the {SHIP} {ship}.",
            "{occasion} {mission} the {SHIP} {ship} {RECOVERED} the {CREW} by noon.",
            "{occasion} {mission} the {SHIP} on station was the {ship}, which {RECOVERED} the {CREW}.",
        ),
        (
            "The {SPLASHDOWN} was in the {basin}, a quiet {AREA}.",
            "The {AREA} of {SPLASHDOWN} was the {basin}, far from the trade routes.",
            "It came down in the {basin}, the {AREA} kept free for {SPLASHDOWN}.",
        ),
        (
            "The {WAIT} in the water was {wait}, as a line had to be cut.",
            "A {WAIT} of {wait} followed before the hatch was opened.",
            "There was a {WAIT} of {wait} with the hatch still shut.",
        ),
        (
            "A {HELICOPTER} known by radio as {heli} stood by overhead.",
            "Overhead flew {heli}, a {HELICOPTER} with two divers.",
            "Divers jumped from {heli}, the nearest {HELICOPTER}.",
        ),
        (
            "The {WAVES} came to {waves} that day.",
            "The divers put the {WAVES} at {waves}.",
            "It rolled in {WAVES} of {waves} all the time.",
        ),
        (
            "Each {CANOPY} was saved, and the {PILOT} was in good health.",
            "The {COMMANDER} of {mission} came out last and the {CRAFT} was hoisted aboard.",
            "The {CANOPY} opened in good time, a relief to the {ENGINEER}.",
            "The {FLIGHT} papers of {mission} and the notes on its {OBJECTIVE} were kept dry.",
        ),
    ),
}

# Programme passages belong to no mission and to no question: they are there to be found by mistake.
PROGRAMME = {
    "pad": (
        ("{place}", "{place}, programme notes", "Larkspur notes on {place}"),
        ("{place} is a {PAD} of the Larkspur programme.",
         "The {PAD} at {place} serves the Larkspur programme."),
        ("Each {VEHICLE} arrives by rail and is raised a week before {LAUNCH}.",
         "A {VEHICLE} lies in a long shed until the week of its {LAUNCH}."),
        ("The weather office closes the roads at dawn whenever a {CREW} is due to leave.",
         "Storms have put off more than one {FLIGHT}, most often in autumn."),
        ("A {CREW} sleeps in a low building by the gate and eats with the {CONTROLLER} on duty.",
         "Rooms for the {CREW} and for every {CONTROLLER} lie behind the main gate."),
        ("Afterwards the ground is washed, and loose {METAL} is swept up by hand.",
         "Each {COMPONENT} left over is labelled and sent back to its {SUPPLIER}."),
    ),
    "vehicle": (
        ("{place}", "{place}, programme notes", "Larkspur notes on the {place}"),
        ("The {place} is a {VEHICLE} of the Larkspur programme.",
         "Larkspur flies the {place}, a {VEHICLE} of two stages."),
        ("It was {MADE} in small numbers, and no two have quite the same {MASS}.",
         "Every copy was {MADE} by hand, so that the {MASS} varies a little."),
        ("Its stages are lit for a {TEST} before each {LAUNCH}.",
         "A short {TEST} of its stages comes before any {LAUNCH}."),
        ("A {ANOMALY} of one pump does not stop the {FLIGHT}, since the others run longer.",
         "The {COMMANDER} may shut down one pump after a {ANOMALY} and go on with the {FLIGHT}."),
        ("Spent stages come down under a {CANOPY} and are towed home by a {SHIP}.",
         "A {SHIP} looks for spent stages, though the {CANOPY} often sinks."),
    ),
    "rule": (
        ("Larkspur rules, part {n}", "Programme rules {n}", "Rules of the Larkspur programme {n}"),
        ("A {CREW} has three members, and the {COMMANDER} has the last word on board.",
         "Every {COMPONENT} has a formal name, used in all papers whatever it is {NAMED} in the shop.",
         "A {SPARE} is kept for each {COMPONENT} and gets the same {TEST} as the one that flies."),
        ("Any {SYMPTOM} is written down with the elapsed time, even if no {CAUSE} is known.",
         "A {CONTROLLER} may ask for a {REMEDY} but may not order one."),
        ("The {CONDUCTOR} of a {TEST} may not work for the {SUPPLIER}.",
         "A {LAB} keeps each {READING} for ten years, and the {PEAK} one for ever."),
        ("The {SHIP} and the {HELICOPTER} hold one {REHEARSAL} before every {SPLASHDOWN}.",
         "In heavy {WAVES} the {SPLASHDOWN} moves to another {AREA} or to another day."),
        ("No {SPACEWALK} may fall within a day of the {DOCKING}.",
         "A {TELECAST} may not be sent during a {BURN}."),
    ),
}  # fmt: skip

REFUSALS = (
    "No summary of {title} can be given.",
    "I am sorry, but I cannot describe {title} without more context.",
    "The text of {title} was not available when these notes were made.",
)
