"""Words for captions of regions, four lists and their templates (Local Patterns, 3.2).

The paper takes them from the Oxford-3000 list, which is not redistributable; these lists are ours. For each word the
ImageNet-1k classes that stand for it where no image-text encoder is at hand; a word without classes is never chosen
then, and the first word of a list stands where none is seen. [ours]
"""

from __future__ import annotations

TEMPLATES = ("A man is {}", "A man is in {}", "A man is in the {}", "There is {}")
SLOTS = ("action", "clothes", "place", "object")

ACTIONS: dict[str, tuple[int, ...]] = {
    "walking": (),
    "cycling": (444, 671),
    "driving": (436, 511, 609, 627, 656, 705, 717, 751, 817, 864, 867),
    "riding": (339, 603, 665, 670),
    "skiing": (795,),
    "playing": (430, 522, 574, 722, 768, 805, 852, 890),
    "swimming": (842, 801),
    "sailing": (554, 576, 625, 724, 780, 814, 871, 914),
    "cooking": (567, 766, 827, 891, 909, 910, 926),
    "reading": (454, 624, 921),
    "writing": (418, 563, 749),
    "typing": (508, 527, 620, 664, 681, 810, 878),
    "calling": (487, 528, 707),
    "filming": (732, 759),
    "eating": (923, 924, 932, 933, 934, 935, 963, 964, 965),
    "drinking": (440, 504, 572, 898, 907, 967, 968, 969),
    "sleeping": (431, 520, 564, 831),
    "sitting": (423, 559, 703, 765, 857),
    "carrying": (414, 636, 728, 748, 797),
    "pushing": (428, 791),
    "shooting": (413, 763, 764, 471),
    "cleaning": (462, 840, 882, 897),
    **dict.fromkeys(
        [
            "running",
            "standing",
            "jumping",
            "falling",
            "lying",
            "climbing",
            "throwing",
            "fighting",
            "kicking",
            "hitting",
            "chasing",
            "bending",
            "crouching",
            "waving",
            "pointing",
            "dancing",
            "skating",
            "stealing",
            "breaking",
            "burning",
            "smoking",
            "shouting",
            "talking",
            "waiting",
            "looking",
            "turning",
            "following",
            "crossing",
            "entering",
            "leaving",
        ],
        (),
    ),
}
CLOTHES: dict[str, tuple[int, ...]] = {
    "a shirt": (),
    "a suit": (834, 906, 457),
    "a jersey": (610,),
    "jeans": (608,),
    "a sweater": (841,),
    "a cardigan": (474,),
    "a coat": (568, 617, 869),
    "a dress": (578, 601, 689),
    "a skirt": (655,),
    "a uniform": (652,),
    "an apron": (411,),
    "a gown": (400,),
    "a kimono": (614,),
    "a poncho": (735,),
    "a bikini": (445,),
    "trunks": (842,),
    "pyjamas": (697,),
    "a helmet": (518, 560),
    "a hat": (515, 808),
    "a mask": (643, 796),
    "glasses": (836, 837),
    "sandals": (774, 502),
    "trainers": (770,),
    "boots": (514,),
    **dict.fromkeys(
        ["shorts", "trousers", "a_jacket", "a_vest", "a_scarf", "gloves", "a_hood", "black", "white", "red", "blue"], ()
    ),
}
PLACES: dict[str, tuple[int, ...]] = {
    "street": (),
    "road": (919, 920, 704),
    "park": (703, 975),
    "beach": (978, 977),
    "mountains": (970, 972, 980, 979),
    "harbour": (536, 625),
    "shop": (415, 424, 454, 467, 509, 582, 743, 788, 860, 865),
    "restaurant": (762,),
    "library": (624,),
    "church": (497, 663, 698),
    "cinema": (498,),
    "prison": (743,),
    "kitchen": (766, 827, 760),
    "bathroom": (435, 861, 896),
    "office": (527, 526, 598),
    "house": (660, 698, 449),
    "garage": (656, 717),
    "station": (466, 547, 820, 829),
    "bridge": (718, 821, 839, 888),
    "yard": (716, 912, 489),
    **dict.fromkeys(
        [
            "room",
            "hall",
            "school",
            "hospital",
            "bank",
            "hotel",
            "airport",
            "field",
            "forest",
            "river",
            "crowd",
            "lift",
            "stairs",
            "corridor",
        ],
        (),
    ),
}
OBJECTS: dict[str, tuple[int, ...]] = {
    "nothing else": (),
    "a bicycle": (444, 671),
    "a car": (436, 511, 609, 627, 656, 661, 751, 817, 468),
    "a truck": (555, 569, 717, 864, 867, 675, 734),
    "a bus": (654, 779, 874),
    "a motorcycle": (665, 670),
    "a cart": (428, 586, 603, 690, 791, 575, 612),
    "a tricycle": (870,),
    "a scooter": (670,),
    "a train": (466, 547, 820),
    "a boat": (472, 554, 576, 625, 814, 914),
    "an aircraft": (403, 404, 405, 895),
    "a bag": (414, 636, 728, 748, 797),
    "an umbrella": (879,),
    "a ball": (429, 430, 574, 722, 768, 805, 852, 890),
    "a bench": (703,),
    "a chair": (423, 559, 765, 857),
    "a table": (532, 526, 736),
    "a dog": (*range(151, 269),),
    "a cat": (*range(281, 286),),
    "a bird": (*range(7, 25), *range(80, 101), *range(127, 147)),
    "a horse": (339,),
    "a phone": (487, 528, 707),
    "a camera": (732, 759),
    "a screen": (664, 782, 851),
    "a computer": (508, 527, 620, 681),
    "a bottle": (440, 720, 737, 898, 907),
    "a cup": (504, 968),
    "a book": (921, 454),
    "a knife": (499, 623),
    "a gun": (413, 763, 764),
    "a sign": (919,),
    "a traffic light": (920,),
    "a pole": (733,),
    "a fence": (489, 716, 912),
    "a wall": (825,),
    "a door": (799, 877),
    "a window": (904, 905),
    "a tree": (),
    "a flower": (985, 986),
    "a lamp": (619, 818, 846),
    "a box": (492, 478, 519),
    "a bucket": (463,),
    "a barrow": (428,),
    "a pushchair": (),
    "fire": (562,),
    "smoke": (),
}
LISTS = tuple(
    {word.replace("_", " "): classes for word, classes in words.items()}
    for words in (ACTIONS, CLOTHES, PLACES, OBJECTS)
)
NAMES = tuple(tuple(words) for words in LISTS)


def sentence(slot: int, word: int) -> str:
    """The filled template: slot 0 action, 1 clothes, 2 place, 3 object."""
    return TEMPLATES[slot].format(NAMES[slot][word])


def sentences(slot: int) -> list[str]:
    """Every sentence of a slot, in the order of its words."""
    return [sentence(slot, word) for word in range(len(NAMES[slot]))]
