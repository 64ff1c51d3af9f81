"""Regenerate the picture pack in ``src/tokenry/data/assets`` from Debian packages.

The pack is what the embedded scenes are drawn from: Noto Color Emoji pictures, their names in sixteen languages from
the Unicode CLDR, and letters for signs. Everything is taken from packages that Debian distributes, so the pack can be
rebuilt without a model hub or a root account::

    apt-get download fonts-noto-color-emoji unicode-cldr-core fonts-dejavu-core
    for deb in *.deb; do dpkg -x "$deb" root; done
    python recipes/emoji_pack.py root --out src/tokenry/data/assets

Sources: Noto Color Emoji (SIL OFL 1.1, Google), CLDR annotations (Unicode licence), DejaVu fonts (Bitstream Vera
licence). The copyright files of the packages are copied beside the pack.
"""

import argparse
import json
import string
import xml.etree.ElementTree as ET
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from tokenry.tokens.files import whole_file

SPRITE = 48  # side of one picture in the sheet, pixels
COLUMNS = 16
NOTO_STRIKE = 109  # the only bitmap size the colour font carries
GLYPH_HEIGHT = 32  # height of one letter cell in the glyph sheet, pixels
LANGUAGES = ("en", "de", "fr", "es", "it", "pt", "nl", "pl", "sv", "tr", "ru", "ar", "hi", "zh", "ja", "ko")
FONTS = ("DejaVuSans-Bold.ttf", "DejaVuSansMono-Bold.ttf", "DejaVuSerif-Bold.ttf")

# group -> "emoji=short English name"; the name is also the key of the object (spaces become "_").
OBJECTS: dict[str, str] = {
    "animal": (
        "🐵=monkey 🐶=dog 🐱=cat 🦁=lion 🐴=horse 🦄=unicorn 🐮=cow 🐷=pig 🐭=mouse 🐰=rabbit 🐻=bear 🐼=panda "
        "🐨=koala 🐸=frog 🐔=chicken 🐧=penguin 🦆=duck 🦉=owl 🐊=crocodile 🐢=turtle 🐍=snake 🐳=whale 🐬=dolphin "
        "🐠=fish 🦈=shark 🐙=octopus 🐌=snail 🦋=butterfly 🐛=caterpillar 🐜=ant 🐝=bee 🐞=ladybug 🦂=scorpion "
        "🕷=spider 🦀=crab 🐘=elephant 🦏=rhinoceros 🦒=giraffe 🐪=camel 🐑=sheep 🦩=flamingo 🦚=peacock 🦜=parrot "
        "🦇=bat 🦊=fox 🦓=zebra"
    ),
    "food": (
        "🍇=grapes 🍉=watermelon 🍊=tangerine 🍋=lemon 🍌=banana 🍍=pineapple 🍎=apple 🍐=pear 🍒=cherries "
        "🍓=strawberry 🍅=tomato 🥑=avocado 🍆=eggplant 🥕=carrot 🌽=corn 🌶=pepper 🥒=cucumber 🥦=broccoli "
        "🍄=mushroom 🍞=bread 🥐=croissant 🥨=pretzel 🧀=cheese 🍔=hamburger 🍟=fries 🍕=pizza 🌭=hot_dog 🌮=taco "
        "🥚=egg 🍿=popcorn 🍣=sushi 🍦=ice_cream 🍩=doughnut 🍪=cookie 🎂=cake 🍫=chocolate 🍭=lollipop 🍯=honey "
        "🥛=milk ☕=coffee 🍷=wine 🍺=beer"
    ),
    "vehicle": (
        "🚗=car 🚕=taxi 🚌=bus 🚑=ambulance 🚚=truck 🚜=tractor 🏍=motorcycle 🛵=scooter 🚲=bicycle 🚂=locomotive "
        "🚀=rocket 🚁=helicopter ✈=airplane ⛵=sailboat 🚢=ship 🛸=flying_saucer 🛶=canoe"
    ),
    "tool": (
        "🔨=hammer 🪓=axe 🔧=wrench 🔩=bolt ✂=scissors 🔑=key 🔒=lock 🧲=magnet 🔦=flashlight 🧹=broom 🧭=compass "
        "🔬=microscope 🔭=telescope ✏=pencil 📌=pushpin ⚓=anchor ⌛=hourglass ⏰=clock 📷=camera 💻=laptop "
        "💡=light_bulb 🔋=battery"
    ),
    "clothing": (
        "👕=shirt 👖=jeans 👗=dress 👟=sneaker 👠=heel 👢=boot 👒=hat 🎩=top_hat 🧢=cap 👑=crown 🧦=socks "
        "🧤=gloves 🧣=scarf 🧥=coat 👔=necktie 👓=glasses 🎒=backpack 👜=handbag"
    ),
    "instrument": "🎸=guitar 🎻=violin 🎹=piano 🎺=trumpet 🎷=saxophone 🥁=drum 🪕=banjo 🔔=bell",
    "plant": "🌵=cactus 🌲=pine 🌳=tree 🌴=palm 🌻=sunflower 🌹=rose 🌷=tulip 🍀=clover 🍁=maple_leaf",
    "sport": (
        "⚽=soccer_ball 🏀=basketball 🏈=football ⚾=baseball 🎾=tennis_ball 🎳=bowling 🏓=ping_pong 🥊=boxing_glove "
        "🎯=dartboard 🛹=skateboard 🏆=trophy 🪁=kite"
    ),
}

# colour -> objects for which people would agree on it; every other object carries no colour.
COLOURS: dict[str, str] = {
    "red": "octopus ladybug crab apple cherries strawberry tomato pepper car magnet pushpin heel scarf backpack "
    "boxing_glove rose maple_leaf",
    "orange": "fox tangerine carrot basketball boot",
    "yellow": "lemon banana cheese taxi helicopter scooter key lock light_bulb crown trumpet saxophone bell trophy",
    "green": "frog crocodile caterpillar turtle parrot pear cucumber broccoli tractor battery cactus pine tree clover "
    "snake",
    "blue": "whale dolphin cap dress jeans sneaker coat",
    "purple": "grapes eggplant",
    "pink": "pig flamingo tulip",
    "brown": "bear owl handbag monkey",
    "gray": "mouse koala elephant shark",
    "white": "sheep baseball milk",
    "black": "top_hat glasses skateboard camera",
}


def render(emoji: str, font: ImageFont.FreeTypeFont) -> Image.Image:
    """Draw one emoji, cropped to its ink and centred in a transparent square of ``SPRITE`` pixels."""
    canvas = Image.new("RGBA", (160, 160), (0, 0, 0, 0))
    ImageDraw.Draw(canvas).text((8, 8), emoji, font=font, embedded_color=True)
    box = canvas.getchannel("A").getbbox()
    if box is None:
        raise SystemExit(f"the font has no picture for {emoji!r}")
    ink = canvas.crop(box)
    scale = SPRITE / max(ink.size)
    size = (max(1, round(ink.width * scale)), max(1, round(ink.height * scale)))
    # "RGBa" (premultiplied) so that transparent black does not bleed into the edges
    ink = ink.convert("RGBa").resize(size, Image.Resampling.LANCZOS).convert("RGBA")
    out = Image.new("RGBA", (SPRITE, SPRITE), (0, 0, 0, 0))
    out.paste(ink, ((SPRITE - size[0]) // 2, (SPRITE - size[1]) // 2))
    return out


def cldr_names(root: Path, language: str) -> dict[str, str]:
    """Emoji -> short name (CLDR ``type="tts"``) in one language."""
    tree = ET.parse(root / f"usr/share/unicode/cldr/common/annotations/{language}.xml")
    return {
        str(node.get("cp")): (node.text or "").strip()
        for node in tree.iter("annotation")
        if node.get("type") == "tts"
    }


def glyph_sheet(fonts: list[Path]) -> Image.Image:
    """White-on-black letters A-Z, one row a font, each letter stretched to one fixed cell so that pitch is known."""
    cell = (GLYPH_HEIGHT * 3 // 4, GLYPH_HEIGHT)
    sheet = Image.new("L", (cell[0] * 26, cell[1] * len(fonts)), 0)
    for row, path in enumerate(fonts):
        font = ImageFont.truetype(str(path), 64)
        for column, letter in enumerate(string.ascii_uppercase):
            canvas = Image.new("L", (128, 128), 0)
            ImageDraw.Draw(canvas).text((24, 24), letter, font=font, fill=255)
            ink = canvas.crop(canvas.getbbox())
            # capitals share one height; width follows the letter but never exceeds the cell
            width = min(cell[0], max(6, round(ink.width * cell[1] / ink.height)))
            glyph = ink.resize((width, cell[1]), Image.Resampling.LANCZOS)
            sheet.paste(glyph, (column * cell[0] + (cell[0] - width) // 2, row * cell[1]))
    return sheet


def write(path: Path, payload: bytes) -> None:
    with whole_file(path) as scratch:
        scratch.write_bytes(payload)


def save_png(path: Path, image: Image.Image) -> None:
    with whole_file(path) as scratch:
        image.save(scratch, format="PNG", optimize=True)


def main() -> None:
    """Build the pack from unpacked Debian packages."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("root", type=Path, help="folder into which the three packages were unpacked")
    parser.add_argument("--out", type=Path, default=Path("src/tokenry/data/assets"))
    arguments = parser.parse_args()
    root, out = arguments.root, arguments.out
    out.mkdir(parents=True, exist_ok=True)

    noto = ImageFont.truetype(str(root / "usr/share/fonts/truetype/noto/NotoColorEmoji.ttf"), NOTO_STRIKE)
    names = {language: cldr_names(root, language) for language in LANGUAGES}
    entries = [(group, *item.split("=")) for group, items in OBJECTS.items() for item in items.split()]
    rows = -(-len(entries) // COLUMNS)
    sheet = Image.new("RGBA", (COLUMNS * SPRITE, rows * SPRITE), (0, 0, 0, 0))
    colours = {key: colour for colour, keys in COLOURS.items() for key in keys.split()}
    objects = []
    for index, (group, emoji, key) in enumerate(entries):
        sprite = render(emoji, noto)
        sheet.paste(sprite, (index % COLUMNS * SPRITE, index // COLUMNS * SPRITE))
        translated = {"en": key.replace("_", " ")}
        translated |= {lang: names[lang][emoji] for lang in LANGUAGES[1:] if emoji in names[lang]}
        objects.append(
            {"key": key, "emoji": emoji, "group": group, "colour": colours.get(key), "names": translated}
        )
    save_png(out / "sprites.png", sheet)
    save_png(
        out / "glyphs.png", glyph_sheet([root / "usr/share/fonts/truetype/dejavu" / name for name in FONTS])
    )
    manifest = {
        "format": 1,
        "sprite": {"file": "sprites.png", "size": SPRITE, "columns": COLUMNS},
        "glyphs": {
            "file": "glyphs.png",
            "height": GLYPH_HEIGHT,
            "width": GLYPH_HEIGHT * 3 // 4,
            "fonts": list(FONTS),
        },
        "languages": list(LANGUAGES),
        "objects": objects,
    }
    write(out / "pack.json", (json.dumps(manifest, ensure_ascii=False, indent=1) + "\n").encode())
    licences = {
        "noto-emoji": "fonts-noto-color-emoji",
        "cldr": "unicode-cldr-core",
        "dejavu": "fonts-dejavu-core",
    }
    for name, package in licences.items():
        write(out / f"LICENSE.{name}.txt", (root / f"usr/share/doc/{package}/copyright").read_bytes())
    print(f"{len(objects)} objects, {len(LANGUAGES)} languages -> {out}")


if __name__ == "__main__":
    main()
