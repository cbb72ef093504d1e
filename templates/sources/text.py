"""Makes ../mingpt/data/text.txt from Debian's packages of the King James Version.

    apt-get download bible-kjv bible-kjv-text
    for deb in bible-kjv*.deb; do dpkg-deb -x $deb kjv; done
    python3 text.py kjv ../mingpt/data/text.txt

Source: the Authorized Version of 1611, whose copyright has expired (in the United Kingdom, the Crown's letters patent
rule who may print it), as in Debian's bible-kjv-text 4.38: the Psalms and the New Testament, a verse a line.
"""
import re, subprocess, sys

folder, text = sys.argv[1:]
verses = subprocess.run([f"{folder}/usr/bin/bible", f"-p{folder}/usr/lib/", "-l10000", "Ps1:1-150:6", "Mat1:1-Rev22:21"],
                        check=True, capture_output=True, text=True).stdout
lines = [re.sub(r"^\s*\d+ ", "", line).strip() for line in verses.splitlines()]
with open(text, "w", encoding="ascii") as file:
    file.write("\n".join(lines).strip() + "\n")
