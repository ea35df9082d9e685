"""What the Hub takes for a language and for a license."""

import difflib
import json
import re
from collections.abc import Iterable, Sequence
from functools import cache
from importlib.resources import files

LICENSES = (
    "apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m bigscience-bloom-rail-1.0 bigcode-openrail-m "
    "afl-3.0 artistic-2.0 bsl-1.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear c-uda cc cc0-1.0 cc-by-2.0 "
    "cc-by-2.5 cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nd-4.0 "
    "cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cdla-sharing-1.0 "
    "cdla-permissive-1.0 cdla-permissive-2.0 wtfpl ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 eupl-1.2 agpl-3.0 gfdl "
    "gpl gpl-2.0 gpl-3.0 lgpl lgpl-2.1 lgpl-3.0 isc h-research intel-research lppl-1.3c ms-pl apple-ascl apple-amlr "
    "mpl-2.0 odc-by odbl openmdw-1.0 openrail++ osl-3.0 postgresql ofl-1.1 ncsa unlicense zlib pddl lgpl-lr "
    "deepfloyd-if-license fair-noncommercial-research-license llama2 llama3 llama3.1 llama3.2 llama3.3 llama4 "
    "grok2-community gemma unknown other"
).split()
"""The identifiers in https://huggingface.co/docs/hub/repositories-licenses."""


@cache
def language_names() -> dict[str, str]:
    """Return the name of each language by its ISO 639 code, from the list that `datasets` has of the Hub."""
    path = files("datasets") / "utils" / "resources" / "languages.json"
    return json.loads(path.read_text(encoding="utf-8"))


def check_languages(languages: Sequence[str]) -> None:
    """Raise `ValueError`, with a suggestion, for what is no ISO 639 code such as `en`, `gsw` or `zh-TW`."""
    names = language_names()
    by_name = {part.strip().casefold(): code for code in names for part in re.split("[;,(]", names[code])}
    for language in languages:
        code, *rest = language.split("-")
        # The list has one code a language: `de`, not `deu`, which is one of ISO 639-3.
        is_code = code in names or language == "multilingual" or re.fullmatch("[a-z]{3}", code)
        if is_code and all(re.fullmatch("[A-Za-z0-9]{2,8}", part) for part in rest):
            continue
        close = difflib.get_close_matches(language.casefold(), by_name, 1) if len(language) > 3 else []
        known = by_name.get(language.casefold()) or (by_name[close[0]] if close else "")
        hint = _hint([language.lower() if language.lower() in names else known])
        raise ValueError(f"--languages: {language!r} is no ISO 639 code of a language{hint}")


def check_license(license: str) -> None:
    """Raise `ValueError`, with a suggestion, for what is no identifier of a license on the Hub."""
    if license not in LICENSES:
        spelled = re.sub(r"[^a-z0-9.+]+", "-", license.lower().replace("license", "").replace("version", "")).strip(
            "-"
        )
        hint = _hint(difflib.get_close_matches(spelled, LICENSES, 1)) or ", such as apache-2.0, mit or other"
        raise ValueError(f"--license: {license!r} is no identifier of a license on the Hub{hint}")


def _hint(names: Iterable[str]) -> str:
    return "".join(f"; did you mean {name}?" for name in names if name)
