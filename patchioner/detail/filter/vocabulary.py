"""Things that photos show: what the name of a thing is compared with, so that its score means something.

Knows: plain English nouns, from common knowledge of everyday photos. Does NOT know: models, scores, annotations.
"""

from __future__ import annotations

from typing import Final

_TABLE: Final = """
man, woman, child, baby, boy, girl, crowd, family, soccer player, tennis player, baseball player, skier, surfer,
skateboarder, cyclist, motorcyclist, soldier, police officer, chef, bride, musician, swimmer,
dog, puppy, cat, kitten, horse, cow, sheep, goat, pig, chicken, duck, goose, swan, pigeon, parrot, owl, eagle, seagull,
penguin, elephant, giraffe, zebra, lion, tiger, bear, monkey, deer, camel, rabbit, squirrel, mouse, turtle, snake, frog,
fish, shark, dolphin, butterfly, insect,
car, bus, truck, van, taxi, train, tram, airplane, helicopter, boat, sailboat, ship, canoe, bicycle, motorcycle,
scooter, tractor, wagon, fire truck, ambulance, trailer, airport, runway, train station, railroad track,
street, road, highway, sidewalk, bridge, tunnel, parking lot, traffic light, street sign, stop sign, fire hydrant,
parking meter, street lamp, bench, fence, wall, gate, building, house, skyscraper, church, tower, castle, barn, tent,
shop, restaurant, market, office, classroom, library, museum, stadium, hospital, factory, playground,
clock, statue, fountain, flag, banner, poster, billboard, balloon, kite, umbrella,
tree, forest, bush, flower, grass, leaf, field, garden, park, hill, mountain, rock, cave, desert, beach, sand, ocean,
wave, lake, river, waterfall, pool, swamp, snow, ice, sky, cloud, sun, moon, rainbow, fire, smoke, fog, rain,
kitchen, bathroom, bedroom, living room, hallway, staircase, balcony, door, window, curtain, floor, ceiling, roof,
fireplace, lamp, chair, couch, table, desk, bed, pillow, blanket, shelf, cabinet, drawer, mirror, carpet, rug, towel,
toilet, sink, bathtub, shower, faucet, refrigerator, oven, stove, microwave, toaster, blender, kettle, trash can,
bottle, glass, wine glass, cup, mug, plate, bowl, fork, knife, spoon, pot, pan, cutting board, tray, napkin, basket,
box, bag, backpack, suitcase, handbag, wallet,
pizza, sandwich, burger, hot dog, bread, cake, donut, cookie, ice cream, pasta, rice, salad, soup, meat, egg, cheese,
banana, apple, orange, strawberry, grape, lemon, pineapple, tomato, carrot, broccoli, potato, onion, pepper, corn,
coffee, wine, beer, juice, candle, vase,
television, laptop, computer, keyboard, computer mouse, cell phone, camera, remote control, printer, speaker, radio,
microphone, guitar, piano, drum, violin, book, newspaper, magazine, pen, pencil, scissors, toothbrush, hair dryer,
ball, baseball bat, baseball glove, tennis racket, golf club, frisbee, skateboard, surfboard, snowboard, skis, helmet,
net, toy, doll, teddy bear, puzzle, video game,
hat, cap, shirt, jacket, coat, suit, tie, dress, skirt, jeans, shorts, shoe, boot, sock, glove, scarf, glasses,
sunglasses, wetsuit, uniform, bikini, necklace, ring, watch, crown, mask,
hammer, ladder, rope, wheel, engine, chain, pipe, wire, sword, gun, robot, rocket, map, painting, sculpture
"""

NOUNS: Final = tuple(" ".join(noun.split()) for noun in _TABLE.replace("\n", " ").split(","))
"""About 350 things, each once; in the singular but for those that have none."""
