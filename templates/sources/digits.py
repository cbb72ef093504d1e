"""Makes the four IDX files in ../vision/data from the digits that scikit-learn ships.

    pip download --no-deps scikit-learn==1.9.1
    python3 digits.py scikit_learn-1.9.1-*.whl ../vision/data

Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits (its test set: 1,797 images), UCI Machine
Learning Repository, 1998, CC BY 4.0; as `sklearn/datasets/data/digits.csv.gz`, in a package under the 3-clause BSD license.

Each image has 8 x 8 counts from 0 to 16; they become bytes from 0 to 255. Every fifth image is for testing.
"""
import gzip, pathlib, struct, sys, zipfile

wheel, folder = sys.argv[1], pathlib.Path(sys.argv[2])
with zipfile.ZipFile(wheel) as archive:
    table = gzip.decompress(archive.read("sklearn/datasets/data/digits.csv.gz")).decode()
rows = [[int(float(number)) for number in line.split(",")] for line in table.split()]
assert len(rows) == 1797 and all(len(row) == 65 and max(row[:64]) <= 16 and row[64] <= 9 for row in rows)


def write(name, magic, sizes, values):
    header = struct.pack(f">{1 + len(sizes)}I", magic, *sizes)
    (folder / name).write_bytes(header + bytes(values))


test = rows[4::5]
train = [row for number, row in enumerate(rows) if number % 5 != 4]
for part, rows in [("train", train), ("t10k", test)]:
    pixels = [round(value * 255 / 16) for row in rows for value in row[:64]]
    write(f"{part}-images-idx3-ubyte", 0x803, [len(rows), 8, 8], pixels)
    write(f"{part}-labels-idx1-ubyte", 0x801, [len(rows)], [row[64] for row in rows])
