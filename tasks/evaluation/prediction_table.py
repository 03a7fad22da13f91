"""The table of predictions, which the classifier and the baseline both write.

Touches no file and needs no torch.
"""

import numpy as np
import pyarrow as pa

from pipeline_config.schemas import predictions_schema


def tabulate_predictions(documents: pa.Table, labels: list[str], probabilities: np.ndarray) -> pa.Table:
    """Return predictions (`predictions_schema`) for `doc_id`, `split`, `label` and float64[N, C] probabilities."""
    best = np.asarray(labels, dtype=object)[probabilities.argmax(axis=1)]
    columns = [*documents.columns, pa.array(best.tolist(), pa.string())]
    columns += [pa.array(probabilities[:, i].astype(np.float64)) for i in range(len(labels))]
    return pa.table(columns, schema=predictions_schema(labels))
