"""Write the notebooks without their answers.

    python nbs/student.py OUT

Hints, checks and the explanations of quizzes stay; they are there to be used while learning. The
page for teachers, with the results of the lab, is left out.
"""

import json
import re
import shutil
import sys
from pathlib import Path

NBS = Path(__file__).resolve().parent
ANSWER = re.compile(r'\s*<details><summary>Answer</summary>.*?</details>', re.S)


def without_answers(notebook):
    "The JSON of a notebook whose cells of text hold no answer."
    notebook = json.loads(notebook)
    for cell in notebook['cells']:
        if cell['cell_type'] == 'markdown':
            cell['source'] = ANSWER.sub('', ''.join(cell['source'])).splitlines(True)
    return json.dumps(notebook, indent=1, ensure_ascii=False, sort_keys=True) + '\n'


def main(out):
    "Notebooks without answers in the folder `out`, with the files that they import."
    out.mkdir(parents=True, exist_ok=True)
    for name in ('exercises.py', 'checks.py', 'lesson.py'):
        shutil.copy(NBS / name, out)
    for path in {*NBS.glob('[!_.]*.ipynb')} - {NBS / 'teach.ipynb'}:
        (out / path.name).write_text(without_answers(path.read_text('utf-8')), 'utf-8')


if __name__ == '__main__':
    if len(sys.argv) != 2:
        sys.exit('usage: python nbs/student.py OUT')
    main(Path(sys.argv[1]))
