"""The word lists of the rule-based parser: closed classes, and the open ones that captions use most.

A word in no list is taken for a noun unless its ending says otherwise, so nouns need no list of their own.
"""

from __future__ import annotations


def word_set(text: str) -> frozenset[str]:
    """The words of a list that is written as text."""
    return frozenset(text.split())


DETERMINERS = word_set("""
a an the his her their its my your our this these those some any every each no all both another either neither several
many few various more most much other others one
""")
PRONOUNS = word_set("""
he she it they him them i you we us me himself herself itself themselves one's someone somebody what anyone anything
something everyone everything nothing each-other oneself nobody none
""")
CONJUNCTIONS = word_set("and or but nor plus & versus vs")
# A new clause: what follows may have its own subject.
CLAUSE_WORDS = word_set(
    "while as when where why how because so if though although that who which whose whom than"
)
AUXILIARIES = word_set("""
is are was were be been being am has have had having does do did can could will would may might must should isn't
aren't doesn't don't that's it's there's seems seem appears appear becomes become
""")
PREPOSITIONS = word_set("""
in on of with at by for from near to into onto through over under behind across around along between beside beneath
below above against outside inside down up off out toward towards past during after before among amongst amidst amid
atop upon underneath alongside within without about beyond like throughout via aboard per opposite nearby next amongst
""")
ADVERBS = word_set("""
very there here together away back forward ahead apart too also just not then now still almost already yet again even
only ever never once twice outdoors indoors upside overhead midair mid-air sideways downhill uphill downstairs
upstairs somewhere anywhere else far quite rather really so right alone aside all-together downwards upwards backwards
forwards abroad off-camera close-by well perhaps maybe aloft onstage underwater
""")
# Words of several parts that act as one. The value "" is for those that name nothing.
_PREPOSITION_PHRASES = """
in front of|on top of|next to|close to|out of|inside of|outside of|on the side of|at the edge of
on the edge of|in the middle of|in between|on the back of|at the top of|in the back of|up against
at the bottom of|on the front of|to the side of|along side|by the side of|in back of|because of
on either side of|instead of|such as|as well as|full of|filled with|covered in|covered with
made of|surrounded by|dressed in|dressed as|to the top of|in the center of|on the other side of
"""
_EMPTY_PHRASES = """
in the background|in the foreground|in the distance|in a row|up close|at the same time|at night
side by side|in mid air|in the back|in front|at the top|each other|one another|a lot|in motion
on the side|a little bit|of some sort|of some kind|in the middle|on display|in action|on top
as seen from|for the camera|at the camera
"""
PHRASES: dict[str, str] = {
    phrase: kind
    for kind, text in (("PREPOSITION", _PREPOSITION_PHRASES), ("", _EMPTY_PHRASES))
    for phrase in text.strip().replace("\n", "|").split("|")
}

NUMBERS = word_set(
    "two three four five six seven eight nine ten eleven twelve twenty fifty hundred"
)
COLOURS = word_set("""
black white red blue green brown yellow orange pink purple gray grey tan gold golden silver beige maroon teal
turquoise navy blond blonde multicolored multi-colored colorful colourful burgundy khaki dark-colored
""")
ADJECTIVES = COLOURS | word_set("""
young old little small large big long short tall high low older younger elderly smaller larger wooden metal plastic
brick concrete asian african american chinese indian japanese german french italian hispanic mexican british english
european african-american caucasian dark light bright pale open closed empty full crowded busy sunny cloudy rainy
snowy icy muddy dusty dirty clean grassy sandy rocky wet dry hot cold warm cool public outdoor indoor male female
adult teenage happy sad angry silly beautiful pretty nice lovely cute attractive handsome good great bad fancy funny
strange odd unusual weird unique special interesting huge giant tiny miniature massive enormous fat thin thick skinny
slim overweight heavy lightweight wide narrow deep shallow steep flat round square circular tight loose lone single
double multiple different same similar identical new modern vintage antique ancient historic traditional classic
old-fashioned double-decker rustic professional musical martial military medical commercial industrial residential
urban suburban rural tropical electric electronic digital mobile portable stuffed tiled paved striped plaid checkered
polka-dot floral ornate decorative formal casual fuzzy furry fluffy shaggy hairy curly bald shirtless barefoot topless
naked nude bare bearded tattooed hooded sleeveless pregnant homeless young-looking middle-aged blond-haired wild tame
stray wooded forested mountainous hilly leafy lush green-leafed fresh ripe raw sliced baked fried grilled steamed
frozen healthy delicious tasty sweet spicy broken rusty messy cluttered neat abandoned deserted quiet calm loud noisy
soft hard rough smooth shiny glossy transparent clear foggy blurry natural scenic aerial rear front upper lower left
first second third fourth last final next early late whole half entire real fake artificial red-haired rich poor
strong weak tired sleepy hungry thirsty proud serious intense intent excited surprised scared sick injured dead alive
fit athletic muscular famous popular favorite official important local native foreign national international private
personal solo spiky choppy hawaiian korean vietnamese spanish russian scottish irish arab latin lazy tropical brave
crazy evil pure pinkish various-sized oriental vegan vegetarian stylish elegant cozy comfortable rectangular oval
tabby decorated painted lit dimly-lit uniformed costumed seated handmade homemade makeshift nearby wicker ceramic
stainless leathery woolen denim festive busy-looking upright horizontal vertical inflatable friendly playful curious
lonely grown inner outer pointy sharp spotted patterned identical fast slow amateur senior junior royal live wavy
mixed assorted numerous countless extra sheer see-through partial certain possible ready asleep awake airborne barren
bloody chubby creamy crusty crispy gloomy hazy plain rugged sleek slippery sturdy sunlit tidy tan-colored
zebra-striped
""")
# Adjectives that are also heads of their own: "an orange", "the blonde", "a light".
NOUN_ADJECTIVES = word_set("""
orange blond blonde light adult elderly plastic metal brick concrete denim male female front square double local
native half second professional senior junior teenage young old left american asian african indian leather antique
white-board square round plaid gold silver
""")
ADJECTIVE_ENDINGS = ("ful", "ous", "less", "able", "ible", "ical", "esque", "-like", "-style")

VERBS_ONLY = word_set("""
wear sit hold eat take get read make hang sing prepare lean wed sell put give clean kneel write attempt speak catch
gather include reach compete relax draw float wash dig serve stick pour lead feed shave sew examine converse leave
celebrate observe participate operate contain buy squat load unload fold weld carve toss grow attend lay lie stand
create say lick protest learn grab inspect consist interact adjust peek enter admire pretend greet demonstrate receive
begin bake strike entertain await socialize involve gesture depict descend ascend scratch peel sculpt suck explain
vacuum recline dribble arrive struggle decorate fetch bring add retrieve remove deliver transport happen engage
construct concentrate meditate emerge dangle soak reveal extend contemplate attach assemble roast salute organize
navigate instruct grasp accept wield weigh want rehearse choose arrange protect communicate twist straddle provide
promote congregate defend expose exchange drip blossom toast ship send represent replace comfort wonder survive stay
spill scrub repel polish react cause bound avoid decide applaud wrangle unwrap secure resemble produce manipulate
maneuver join illuminate collide deal describe snuggle cling capture interview appear perform enjoy go pose smile talk
sleep chew crouch juggle display feature be do have see say think know let tell ask keep find come become seem bend
browse chat chase cheer chop clap climb cuddle cut dive embrace exercise feed fill fly follow gaze glide graze grin
handle hug hop ignore jog kick kiss laugh leap lift listen look lunge march meet mow munch pass pat peer perch pet
pick play pray pull push rake ride rise roam run scream shake share sip ski skip slide sniff snowboard splash stare
stir stretch stroll swim swing tackle teach tend throw tie touch travel type use visit wade wait walk wander carry try
steal allow marry bury hurry study cry dry fry watch wave wipe work wrap wrestle yawn yell
""")
# Verbs whose forms are just as often nouns: context decides.
NOUN_VERBS = word_set("""
play walk look ride run jump talk work smile watch swim dance climb park paint drink drive shop ski cut set show race
throw pull cook laugh cross swing skateboard smoke face surf point rail rest step travel practice bowl kick pass move
attempt blow fight skate dress hike leap draw fall hit float hug match wash pour jog roll pick check march brush
balance sweep surround shoot snowboard box land bike shovel paddle bite share buck light pet row lift turn board hand
spin repair advertise flip start grind shine place mix camp sail spray protest head color film view fence kayak hide
burn line water visit finish bounce cycle stop win sled sign pitch guide peer flow block seat drag crash break sort
raft crawl pay offer speed scale exit bat wind present photograph ice exercise drill slice rake keep direct rise nap
garden order measure bicycle glow flame search form focus score rub hammer bark stock return rain letter change smell
star nurse drop cool close saw round purchase ear group barbecue hoop test snow mop pack love curl rope iron guard
frown battle roam shout shield fire feel breath trail top net flower craft dunk tower squeeze rush flash charge call
address vault taste spread sand review war steam install hunt house canoe bow state stack season screen scoop save
release press plow plan pedal peak landscape glance game dip bed tune bike boat dump shade attack package challenge
comb drum farm dye date drift count bus train tape tag survey sketch ring pump patrol parade pad crack border cover
crowd plant picture bridge fish help stare slide hop skip kiss fly lie talk stroll wave yawn skate wrestle reach touch
tie shape spot use report sound care control catch cast track stretch guess name head
""")
IRREGULAR_VERBS: dict[str, str] = {
    form: lemma
    for lemma, forms in {
        "wear": "wore worn", "sit": "sat", "stand": "stood", "hold": "held", "run": "ran", "eat": "ate eaten",
        "drink": "drank drunk", "ride": "rode ridden", "make": "made", "take": "took taken", "throw": "threw thrown",
        "catch": "caught", "swim": "swam swum", "fly": "flew flown", "drive": "drove driven", "draw": "drew drawn",
        "give": "gave given", "get": "got gotten", "hang": "hung", "keep": "kept", "lay": "laid lain", "lead": "led",
        "leave": "left", "meet": "met", "rise": "rose risen", "say": "said", "sing": "sang sung", "see": "seen",
        "send": "sent", "show": "shown", "sleep": "slept", "sell": "sold", "speak": "spoke spoken", "stick": "stuck",
        "strike": "struck", "sweep": "swept", "swing": "swung", "teach": "taught", "tell": "told", "go": "went gone",
        "write": "wrote written", "build": "built", "buy": "bought", "bring": "brought", "break": "broke",
        "bend": "bent", "bite": "bit bitten", "blow": "blew blown", "feed": "fed", "fall": "fell fallen",
        "fight": "fought", "find": "found", "grow": "grew", "kneel": "knelt", "leap": "leapt", "spin": "spun",
        "shake": "shook shaken", "hide": "hidden", "begin": "began begun", "come": "came", "win": "won",
        "lose": "lost", "spread": "spread", "weave": "woven", "tear": "torn", "dig": "dug", "slide": "slid",
    }.items()
    for form in forms.split()
}  # fmt: skip

# Not verb forms, whatever their ending.
ING_NOUNS = word_set("""
building clothing railing ceiling wedding ring king string wing spring evening morning thing sibling earring awning
painting pudding icing sling crossing duckling stuffing topping herring clothing bedding wing landing siding flooring
carving offspring seedling underling
""")
ED_NOUNS = word_set(
    "bed red sled shed seed weed feed speed hundred bread thread head moped reed need steed"
)
LY_NOUNS = word_set("""
family butterfly jelly belly fly bully lily assembly rally trolley curly lovely elderly friendly woolly hilly italy
holly ply dolly july ugly lonely silly wooly early only jolly bubbly
""")
# "a swimming pool" is a kind of pool, but "a swimming dog" is a dog that swims.
GERUND_PAIRS = frozenset(
    (first, second)
    for line in """
swimming pool trunks cap suit goggles; parking lot meter garage space sign area; diving board suit; dining room table
area hall car; living room area; cutting board; shopping cart bag center mall; boxing ring glove match; fishing pole
boat rod net line gear vessel; washing machine; sewing machine; frying pan; sleeping bag; walking stick path cane
trail; rolling pin; skating rink; cooking pot; running shoe track; climbing wall gear rope equipment; bowling alley
ball lane; training pad field; hiking trail boot gear pole stick; baking pan sheet dish; waiting room area; riding
gear boot; fencing match competition mask; racing bike car track suit; wrestling match mat ring; wedding dress cake;
dancing shoe; playing field card; serving dish tray; sailing boat ship; drinking fountain glass water; landing gear;
watering can hole; writing desk; mixing bowl; rowing boat; starting line block; hunting dog rifle; operating room
table; boarding pass gate; surfing competition board; building block; lifting weight; polling station; changing table
room; knitting needle; hearing aid; loading dock
""".replace("\n", " ").split(";")
    if line.strip()
    for first, *rest in [line.split()]
    for second in rest
)  # fmt: skip
# A participle that describes whoever does it: "a smiling man". Others take an object.
DESCRIBING_VERBS = word_set("""
sit stand smile laugh sleep run fly bark cry fall swim float graze rest pass grow lie walk jump bend frown swing burn
flow rush crash wait bounce spin bleed shine glow roll
""")
# "a snow covered hill" is a snow-covered one.
COMPOUND_PARTICIPLES = word_set(
    "covered filled lined shaped themed colored coloured haired sized soaked stained"
)
# "wine glasses" are vessels, "glasses" are spectacles.
VESSELS = word_set("wine champagne drinking water beer cocktail shot martini juice milk")
IRREGULAR_PLURALS = {
    "men": "man", "women": "woman", "children": "child", "feet": "foot", "teeth": "tooth", "mice": "mouse",
    "geese": "goose", "knives": "knife", "wives": "wife", "lives": "life", "leaves": "leaf", "loaves": "loaf",
    "shelves": "shelf", "wolves": "wolf", "calves": "calf", "scarves": "scarf", "halves": "half", "hooves": "hoof",
    "oxen": "ox", "cacti": "cactus", "policemen": "policeman", "firemen": "fireman", "fishermen": "fisherman",
    "cookies": "cookie", "businessmen": "businessman", "gentlemen": "gentleman", "movies": "movie", "ties": "tie",
    "pies": "pie", "selfies": "selfie", "smoothies": "smoothie", "brownies": "brownie", "snowmen": "snowman",
    "salesmen": "salesman", "cavemen": "caveman", "gas": "gas", "ladies": "lady", "skies": "sky",
    "headphones": "headphone", "frisbees": "frisbee", "shoes": "shoe", "canoes": "canoe", "toes": "toe",
    "horseshoes": "horseshoe", "axes": "axe", "zombies": "zombie", "hoodies": "hoodie", "hippies": "hippie",
    "birdies": "birdie", "caches": "cache", "doilies": "doily", "aches": "ache", "cafes": "cafe",
}  # fmt: skip
NO_SINGULAR = word_set("""
glasses sunglasses eyeglasses pants jeans shorts scissors clothes goggles tennis grass bus glass dress cross pass moss
chess boss class bass lens canvas christmas gas news athletics gymnastics lacrosse binoculars overalls leggings tights
trousers pajamas headquarters series species stairs people police sheep cattle deer fish trunks sweatpants underpants
bikers-shorts mess princess waitress actress mattress harness fitness wilderness business process address compass
hummus campus circus cactus walrus octopus hibiscus asparagus citrus virus iris pelvis ibis oasis basis paradise
khakis swimtrunks dungarees tongs tweezers pliers outdoors indoors camouflage swiss atlas texas
""")
ANIMATE = word_set("""
man woman boy girl child kid person people baby toddler adult lady gentleman guy male female couple family crowd group
team player dog cat puppy kitten horse cow bull sheep goat bird duck goose elephant giraffe zebra bear lion tiger
monkey deer pig chicken rabbit fish seagull pigeon animal pet friend mother father mom dad son daughter brother sister
husband wife bride groom cop policeman police officer soldier fireman chef cowboy clown pirate athlete artist musician
band tourist cyclist guitarist student gymnast spectator pedestrian child's infant teen elder youth crew class
audience somebody individual cheerleader bicyclist motorcyclist violinist pianist businessman businesswoman fisherman
nun monk priest santa king queen nurse guard model tribe choir herd flock blonde brunette parent male's hiker golfer
cub lamb calf foal pony donkey camel cattle poodle terrier retriever husky collie bulldog greyhound beagle shepherd
labrador dalmatian chihuahua dachshund ape gorilla squirrel
""")
NOT_ANIMATE = word_set("""
water paper counter computer flower corner shower tower sweater container trailer river poster roller dinner center
letter number ladder monitor door floor mirror tractor motor toaster helicopter escalator elevator refrigerator
scooter cooler dresser drawer butter pepper burger order shoulder finger leather weather feather summer winter sticker
cover border barrier layer power fiber timber rubber silver copper color tutor indoor outdoor horror cylinder soccer
skewer lumber beer pier liner diner locker boulder propeller litter platter saucer charger printer planter feeder
streamer sweeper blender burner hanger freezer cracker dumpster theater quarter slipper bumper shutter filter cleaner
blazer cluster zipper fiber cater decor razor visor anchor harbor armor flavor
""")
# "a group of people" is people; "a bowl of soup" is a bowl and soup.
PARTITIVES = word_set("""
group bunch couple lot lots pair number variety kind type sort assortment collection series plenty dozens hundreds
thousands row set piece pieces load loads mixture array gang trio mass
""")
PICTURES = word_set("""
picture photo photograph image shot view close-up closeup silhouette portrait illustration drawing painting snapshot
scene detail vector close
""")
# Names of places within the picture or of nothing that can be seen.
UNSEEN = word_set("""
background foreground distance front middle side top bottom back way time day lot bit kind type sort thing one other
others number part end action motion while style use look something rest order fun place case start view left right
attempt mid midst direction color colour front-view manner process reason moment sort turn pair mid-jump jump trick
""")
