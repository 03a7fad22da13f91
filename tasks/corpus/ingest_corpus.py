"""Stage `ingest_corpus`: turn a labelled corpus into validated documents with a split.

Writes `documents`, `rejected` (row, file, line, reason, excerpt), `unlabelled` (train texts without a label) and a
profile: see `tasks.corpus.corpus_output`.
"""

import logging

from prefect import task

from pipeline_config.masking import masked_errors
from pipeline_config.settings import CorpusConfig
from tasks.corpus.corpus_output import find_readings, write_corpus
from tasks.reading.sources import CorpusRef, locate_corpus
from tasks.store.output import StageOutput
from tasks.store.stage import stage

logger = logging.getLogger(__name__)
find_corpus = task(name="find_corpus", task_run_name="find corpus", persist_result=False)(
    masked_errors()(locate_corpus)
)


@stage(version=5)
def ingest_corpus(output: StageOutput, source: CorpusRef, config: CorpusConfig, seed: int) -> None:
    """Write the documents with their splits, the rejected rows, the unlabelled texts and a profile of the corpus.

    Raises:
        InputError: there are no usable documents, there is only one class, a class is too small, a split has no
            documents, or none of a class of the train split, too many rows are rejected, a column is missing, a label
            is a list or an object, or a key of `corpus.label_map` is no label.
    """
    for reading in find_readings(source, config.reading).values():
        logger.info("read as %s", reading.describe())
    for finding in write_corpus(output, source, config, seed).findings:
        logger.warning(finding)
