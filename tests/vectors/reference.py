"""A reader and a writer of token files, written from TOKEN_FILE.md alone, in Python's integers."""

import binascii

FITS = ("aspect", "stretch", "crop", "pad", "tile", "native")
TOTAL = 32768
START = 256
NEAR = ((0, -1), (-1, -1), (-1, 0), (-1, 1), (0, -2), (-2, 0), (-1, -2), (-2, -1), (-2, 1), (-2, 2))


class RefusedError(Exception):
    """What a reader must refuse."""


def refuse_unless(condition):
    if not condition:
        raise RefusedError


STEPS = (0, 0, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 3, 5, 4, 4)  # by the number of packets


def packet_numbers(rows, columns, count):
    return [
        (column + STEPS[count] * row) % count for row in range(rows) for column in range(columns)
    ]


def packet_rows(image, count, number):
    """The tokens of a packet, row by row."""
    columns, found = image["columns"], []
    numbers = packet_numbers(image["rows"], columns, count)
    for start in range(0, len(numbers), columns):
        part = range(start, start + columns)
        found.append([image["tokens"][i] for i in part if numbers[i] == number])
    return found


def write_packets(image, count, prior=None):
    """The packets of an image, and parity."""
    parts = [packet_rows(image, count, number) for number in range(count)]
    if prior:
        payloads = [encode_rows(prior, [part]) for part in parts]
    else:
        payloads = [pack([t for row in part for t in row], image["bits"]) for part in parts]
    framed = [len(own).to_bytes(2, "little") + own for own in payloads]
    parity = 0
    for own in framed:
        parity ^= int.from_bytes(own, "little")
    payloads.append(parity.to_bytes(max(map(len, framed)), "little"))
    head = bytes([0xB5 if prior else 0xB4, FITS.index(image["fit"]) << 5 | image["bits"] - 1])
    head += bytes.fromhex(image["model_id"]) + write_sizes(image)
    crc = binascii.crc_hqx(pack(image["tokens"], image["bits"]), 0xFFFF).to_bytes(2, "little")
    bodies = [
        head + bytes([number << 4 | count - 1]) + crc + own for number, own in enumerate(payloads)
    ]
    return [body + binascii.crc_hqx(body, 0xFFFF).to_bytes(2, "little") for body in bodies]


def write(image, prior=None):
    """A dict with the fields of a file -> the file; ``tokens`` are flat."""
    tiles = image["tile_rows"] * image["tile_columns"]
    payload = pack(image["tokens"], image["bits"])
    entropy_coded = False
    if prior:
        shorter = encode(prior, image["tokens"], tiles, image["rows"], image["columns"])
        if len(shorter) < len(payload) and len(image["tokens"]) <= 4096 + 16 * len(shorter):
            payload, entropy_coded = shorter, True
    body = bytes([0xB6 + entropy_coded, FITS.index(image["fit"]) << 5 | image["bits"] - 1])
    body += bytes.fromhex(image["model_id"]) + write_sizes(image) + payload
    return body + binascii.crc_hqx(body, 0xFFFF).to_bytes(2, "little")


def read(data, prior=None):
    """A file -> its fields; without a prior an entropy-coded file has no ``tokens``."""
    body = data[:-2]
    refuse_unless(len(body) >= 4)
    refuse_unless(body[0] in (0xB6, 0xB7))
    refuse_unless(int.from_bytes(data[-2:], "little") == binascii.crc_hqx(body, 0xFFFF))
    refuse_unless(body[1] >> 5 < len(FITS))
    image = {"fit": FITS[body[1] >> 5], "bits": body[1] % 32 + 1, "model_id": body[2:4].hex()}
    rest = read_sizes(image, body[4:])
    image["entropy_coded"] = body[0] == 0xB7
    tiles = image["tile_rows"] * image["tile_columns"]
    count = tiles * image["rows"] * image["columns"]
    size = (count * image["bits"] + 7) // 8
    refuse_unless(count <= 2**24)
    if not image["entropy_coded"]:
        refuse_unless(len(rest) == size)
        image["tokens"] = unpack(rest, count, image["bits"])
        return image
    refuse_unless(len(rest) < size and count <= 4096 + 16 * len(rest))
    if prior:
        image["tokens"] = decode(prior, rest, tiles, image["rows"], image["columns"])
        again = encode(prior, image["tokens"], tiles, image["rows"], image["columns"])
        refuse_unless(again == rest)
    return image


def read_packets(packets, prior=None):
    """Packets of one image, of which one may be lost if parity is there -> the image."""
    payloads = {}
    for data in packets:
        image, number, payload = read_packet(data)
        payloads[number] = payload
    rows, columns, bits, count, crc = (
        image[name] for name in ("rows", "columns", "bits", "count", "crc")
    )
    numbers = packet_numbers(rows, columns, count)
    lost = [number for number in range(count) if number not in payloads]
    if lost:
        refuse_unless(len(lost) == 1 and count in payloads)
        parity = int.from_bytes(payloads[count], "little")
        for number, own in payloads.items():
            if number != count:
                parity ^= int.from_bytes(len(own).to_bytes(2, "little") + own, "little")
        length, sealed = parity % 2**16, parity >> 16
        restored = sealed.to_bytes(max(length, len(payloads[count])), "little")[:length]
        check_packet(image, lost[0], restored)
        payloads[lost[0]] = restored
    tokens = [None] * len(numbers)
    for number in range(count):
        places = [place for place, own in enumerate(numbers) if own == number]
        if image["entropy_coded"]:
            widths = [numbers[row * columns :][:columns].count(number) for row in range(rows)]
            found = decode_tiles(prior, payloads[number], 1, widths)
        else:
            found = unpack(payloads[number], len(places), bits)
        for place, token in zip(places, found, strict=True):
            tokens[place] = token
    refuse_unless(binascii.crc_hqx(pack(tokens, bits), 0xFFFF) == crc)
    return tokens


def read_packet(data):
    """The fields of a packet, its number and its payload."""
    body = data[:-2]
    refuse_unless(len(body) >= 4 and body[0] in (0xB4, 0xB5))
    refuse_unless(int.from_bytes(data[-2:], "little") == binascii.crc_hqx(body, 0xFFFF))
    refuse_unless(body[1] >> 5 < len(FITS) and FITS[body[1] >> 5] != "tile")
    image = {"fit": FITS[body[1] >> 5], "bits": body[1] % 32 + 1, "entropy_coded": body[0] == 0xB5}
    rest = read_sizes(image, body[4:])
    refuse_unless(image["rows"] * image["columns"] <= 2**24 and len(rest) >= 3)
    image["count"], number = rest[0] % 16 + 1, rest[0] >> 4
    image["crc"], payload = int.from_bytes(rest[1:3], "little"), rest[3:]
    refuse_unless(image["count"] <= 15 and number <= image["count"])
    tokens = image["rows"] * image["columns"]
    refuse_unless(tokens // image["count"] <= 4096 + 16 * len(payload))
    numbers = packet_numbers(image["rows"], image["columns"], image["count"])
    refuse_unless(len(set(numbers)) == image["count"])
    if number < image["count"]:
        check_packet(image, number, payload)
    return image, number, payload


def check_packet(image, number, payload):
    count = packet_numbers(image["rows"], image["columns"], image["count"]).count(number)
    size = (count * image["bits"] + 7) // 8
    if image["entropy_coded"]:
        refuse_unless(len(payload) <= 2 * size + 8 and count <= 4096 + 16 * len(payload))
    else:
        refuse_unless(len(payload) == size)
        unpack(payload, count, image["bits"])


def write_sizes(image):
    """The numbers of the header."""
    numbers = [number_of_shape(image["rows"], image["columns"])]
    if image["fit"] == "tile":
        numbers.append(number_of_shape(image["tile_rows"], image["tile_columns"]))
    difference = image["height"] - expected_height(image)
    numbers.append(image["width"])
    numbers.append(2 * difference if difference >= 0 else -2 * difference - 1)
    return b"".join(map(leb128, numbers))


def read_sizes(image, rest):
    """Adds the sizes to an image; returns what follows the header."""
    number, rest = read_leb128(rest)
    image["rows"], image["columns"] = shape_of_number(number)
    image |= {"tile_rows": 1, "tile_columns": 1}
    if image["fit"] == "tile":
        number, rest = read_leb128(rest)
        image["tile_rows"], image["tile_columns"] = shape_of_number(number)
    image["width"], rest = read_leb128(rest)
    number, rest = read_leb128(rest)
    difference = -(number // 2) - 1 if number % 2 else number // 2
    image["height"] = expected_height(image) + difference
    names = ("rows", "columns", "tile_rows", "tile_columns", "width", "height")
    refuse_unless(all(1 <= image[name] <= 65535 for name in names))
    return rest


def expected_height(image):
    rows, columns = (image[name] * image[f"tile_{name}"] for name in ("rows", "columns"))
    return min((2 * image["width"] * rows + columns) // (2 * columns), 65535)


def number_of_shape(rows, columns):
    d = rows + columns - 2
    return d * (d + 1) // 2 + rows - 1


def shape_of_number(number):
    d = 0
    while (d + 1) * (d + 2) // 2 <= number:
        refuse_unless(d < 2 * 65535)
        d += 1
    row = number - d * (d + 1) // 2
    return row + 1, d - row + 1


def leb128(number):
    if number < 128:
        return bytes([number])
    return bytes([number % 128 + 128]) + leb128(number // 128)


def read_leb128(data):
    """The number, and what follows it."""
    number = 0
    for index, byte in enumerate(data[:5]):
        number += byte % 128 * 128**index
        if byte < 128:
            refuse_unless(leb128(number) == data[: index + 1])
            return number, data[index + 1 :]
    raise RefusedError


def pack(tokens, bits):
    number = sum(token << index * bits for index, token in enumerate(tokens))
    return number.to_bytes((len(tokens) * bits + 7) // 8, "little")


def unpack(payload, count, bits):
    number = int.from_bytes(payload, "little")
    refuse_unless(number < 1 << count * bits)
    return [(number >> index * bits) % 2**bits for index in range(count)]


def ends(scores, powers):
    """Where the slots of every symbol end."""
    weights = [powers[min((max(scores) - score) >> 3, len(powers) - 1)] for score in scores]
    found, so_far = [], 0
    for index, weight in enumerate(weights):
        so_far += weight
        found.append(so_far * (TOTAL - len(scores)) // sum(weights) + index + 1)
    return found


def hidden_of(prior, tile, row, column, rows, columns):
    """The outputs of the layer for a place in a tile, {(row, column): token}."""
    outside = len(prior["group"])
    vector = []
    for down, across in NEAR:
        vector += prior["vectors"][tile.get((row + down, column + across), outside)]
    size = min(31, ((rows * columns) ** 2).bit_length() - 1)
    hidden = []
    for unit in range(128):
        total = sum(x * weights[unit] for x, weights in zip(vector, prior["layer"], strict=True))
        total += prior["size_bias"][size][unit]
        total += prior["row_bias"][row * 16 // rows][unit]
        total += prior["column_bias"][column * 16 // columns][unit]
        hidden.append(min(127, max(0, total >> 7)))
    return hidden


def symbol_ends(prior, hidden, group=None):
    """Where the slots end, of every group, or of the tokens of one; and the symbols."""
    name, symbols = "group", list(range(64))
    if group is not None:
        name = "token"
        symbols = [token for token, own in enumerate(prior["group"]) if own == group]
        refuse_unless(symbols)
    scores = [
        sum(x * y for x, y in zip(hidden, prior[f"{name}_scores"][symbol], strict=True))
        + prior[f"{name}_bias"][symbol]
        for symbol in symbols
    ]
    return ends(scores, prior["powers"]), symbols


def ranked(prior, hidden):
    """All tokens, the likeliest first."""

    def sizes(slots):
        return [end - start for start, end in zip([0, *slots], slots, strict=False)]

    weights = {}
    for group, size in enumerate(sizes(symbol_ends(prior, hidden)[0])):
        if group in prior["group"]:
            slots, tokens = symbol_ends(prior, hidden, group)
            weights |= {t: size * own for t, own in zip(tokens, sizes(slots), strict=True)}
    return sorted(weights, key=lambda token: (-weights[token], token))


def order(rows, columns):
    places = [(row, column) for row in range(rows) for column in range(columns)]
    return sorted(places, key=lambda place: (2 * place[0] + place[1], place[0]))


def encode(prior, tokens, tiles, rows, columns):
    cut = [tokens[start : start + columns] for start in range(0, tiles * rows * columns, columns)]
    return encode_rows(prior, [cut[n * rows : (n + 1) * rows] for n in range(tiles)])


def encode_rows(prior, tiles):
    """Of every tile its rows of tokens; shorter ones end in places without a token."""
    spans, last = [], None
    for lines in tiles:
        rows, columns = len(lines), max(map(len, lines))
        tile = {(y, x): token for y, line in enumerate(lines) for x, token in enumerate(line)}
        for row, column in order(rows, columns):
            if (row, column) not in tile:
                continue
            last = tile[row, column]
            hidden = hidden_of(prior, tile, row, column, rows, columns)
            for group, wanted in ((None, prior["group"][last]), (prior["group"][last], last)):
                slots, symbols = symbol_ends(prior, hidden, group)
                index = symbols.index(wanted)
                spans.append(([0, *slots][index], slots[index]))
    state, found = START + ranked(prior, hidden).index(last), []
    for low, end in reversed(spans[:-2]):
        weight = end - low
        while state >= weight * 2**17:
            found.append(state % 256)
            state //= 256
        state = state // weight * TOTAL + low + state % weight
    while state:
        found.append(state % 256)
        state //= 256
    return bytes(reversed(found))


def decode(prior, payload, tiles, rows, columns):
    return decode_tiles(prior, payload, tiles, [columns] * rows)


def decode_tiles(prior, payload, tiles, widths):
    """The tokens of tiles, whose rows have so many tokens each."""
    rows, columns = len(widths), max(widths)
    left = list(payload)
    state = 0

    def fill():
        nonlocal state
        while state < 2**24 and left:
            state = state * 256 + left.pop(0)

    def pop(slots, symbols):
        nonlocal state
        slot = state % TOTAL
        index = next(index for index, end in enumerate(slots) if slot < end)
        low = [0, *slots][index]
        state = state // TOTAL * (slots[index] - low) + slot - low
        fill()
        refuse_unless(state >= START)
        return symbols[index]

    fill()
    tokens = []
    for number in range(tiles):
        tile = {}
        places = [place for place in order(rows, columns) if place[1] < widths[place[0]]]
        for index, (row, column) in enumerate(places):
            hidden = hidden_of(prior, tile, row, column, rows, columns)
            if (number + 1, index + 1) == (tiles, len(places)):
                refuse_unless(not left and 0 <= state - START < len(prior["group"]))
                tile[row, column] = ranked(prior, hidden)[state - START]
                continue
            group = pop(*symbol_ends(prior, hidden))
            tile[row, column] = pop(*symbol_ends(prior, hidden, group))
        tokens += [tile[place] for place in sorted(tile)]
    return tokens
