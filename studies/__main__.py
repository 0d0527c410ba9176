"""The studies' command line: ``python -m studies toy --seeds 20``."""

from __future__ import annotations

from studies.core.commands import StudyGroup
from studies.core.sweep_command import sweep_study

STUDIES = {
    "toy": "studies.toy.study:ToyStudy",
    "images": "studies.images.study:ImagesStudy",
    "ood": "studies.ood.study:OODStudy",
    "language": "studies.language.study:LanguageStudy",
    "unsupervised": "studies.unsupervised.study:UnsupervisedStudy",
    "unsupervised_images": "studies.unsupervised_images.study:UnsupervisedImagesStudy",
    "ablations": "studies.ablations.study:AblationsStudy",
    "baselines": "studies.baselines.study:BaselinesStudy",
    "sequences": "studies.sequences.study:SequencesStudy",
    "split_digits": "studies.split_digits.study:SplitDigitsStudy",
    "bench": "studies.bench.study:BenchStudy",
    "told_or_not": "studies.told_or_not.study:ToldOrNotStudy",
}
"""Every study, by the name of its command."""

app = StudyGroup(STUDIES)
app.add_command(sweep_study)

if __name__ == "__main__":
    app(prog_name="python -m studies")
