"""The configuration of one pipeline run: one frozen section per stage, every default on its field.

The flow takes a `PipelineConfig` as its single parameter; each task gets its own section. Unknown keys and
values out of range are refused. `None` means disabled. `auto` is the default of values that depend on the corpus: a
rule chooses them once it is tokenized (`rules.py`), into a new configuration. Nothing is written back into one. The
module is longer than 300 lines so that one page holds the fields of all stages; those of `registration` have their own.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from pipeline_config.contracts.batches import BatchingScheme
from pipeline_config.contracts.reading import FileFormat, Quoting, Reading
from pipeline_config.errors import ConfigError
from pipeline_config.names import require_experiment_name, require_names, require_separator
from pipeline_config.operation import HousekeepingConfig, MonitoringConfig, ScoringConfig
from pipeline_config.registration import RegistrationConfig
from pipeline_config.renamed import rename_settings
from pipeline_config.sections import AUTO, ByRule, Fraction, Positive, Rate, Section, Seed

ExperimentName = Annotated[str, AfterValidator(require_experiment_name)]
Separator = Annotated[str, AfterValidator(require_separator)]
Names = Annotated[str | tuple[str, ...], AfterValidator(require_names)]


class CorpusConfig(Section):
    """`ingest_corpus`: where labelled texts come from and how they are split."""

    # the digest of what they name is in the key
    unkeyed = frozenset({"source", "validation_source", "test_source", "query"})

    source: Names | None = Field(
        None,
        description="file, glob, directory of files, folder with one sub-folder per class, https URL, fsspec URL, "
        "package:<distribution>:<path>, or with query the SQLAlchemy URL of a database; or a list of them. A run "
        "needs it",
    )
    query: str | None = Field(None, min_length=1, description="SQL that selects the rows of a database")
    validation_source: Names | None = Field(
        None, description="files of the validation split, named like source; None goes by split_column or draws it"
    )
    test_source: Names | None = Field(
        None, description="files of the test split, named like source; None goes by split_column or draws it"
    )
    format: FileFormat = Field(
        "auto", description="format of the files; auto goes by the file name extension, packed or not"
    )
    sheet: str | None = Field(None, min_length=1, description="sheet of an Excel file; None reads the first")
    text_column: Names = Field(
        "text",
        description="name of the column with the text, or a list of such names; data.text is the field text in data",
    )
    text_joiner: str = Field("\n", description="what stands between the texts of two columns")
    separator: Separator = Field(
        "auto",
        description="what stands between the fields of CSV and TSV: one character, or auto: the one with which the "
        "configured columns are found",
    )
    quoting: Quoting = Field(
        "auto",
        description="quotes in CSV and TSV: standard doubles a quote inside quotes, backslash escapes it, none takes "
        "quotes as they are; auto is standard, or backslash where only that gives every row its fields, and notices "
        "quotes that swallow rows",
    )
    header: bool = Field(
        True,
        description="whether the first row of CSV and TSV names the columns; without it they are column_names, or "
        "1, 2, 3, ...",
    )
    column_names: tuple[str, ...] = Field((), description="names of the columns of files without a header")
    label_column: str = Field("label", min_length=1, description="name of the column with the class")
    split_column: str | None = Field(None, description="column that holds train, validation or test")
    group_column: str | None = Field(
        None, description="rows with the same value in this column stay in one split; the splitter group needs it"
    )
    time_column: str | None = Field(
        None, description="column of numbers, dates or ISO 8601 times; the splitter time needs it"
    )
    keep_columns: tuple[str, ...] = Field(
        (),
        description="columns whose values are kept, as texts, for the slices of the evaluation; also those of label, "
        "split, group or time, not those of the text",
    )
    encoding: str = Field(
        "auto", description="encoding of text files; auto goes by their byte order mark, and is UTF-8 without one"
    )
    label_map: dict[str, str] = Field(default_factory=dict, description="label in the file -> class name")
    min_characters: Positive = Field(
        1, description="reject texts with fewer characters, without surrounding white space"
    )
    max_rejected_fraction: Fraction = Field(
        0.05, description="share of the rows that may be rejected before the corpus is refused"
    )
    max_documents: Positive | None = Field(
        None, description="use at most this many usable rows, evenly spread over the corpus; None uses all"
    )
    min_class_documents: Annotated[int, Field(ge=3)] = Field(
        10, description="smallest number of distinct texts in a class"
    )
    small_classes: Literal["error", "reject"] = Field(
        "error", description="what to do with a class below min_class_documents: stop, or reject its rows"
    )
    splitter: Literal["stratified", "hash", "time", "group"] = Field(
        "stratified",
        description="how to draw splits that are not given: the fractions of each class; by a hash of the text, so "
        "that no document changes its split as the corpus grows; the newest documents for the test; whole groups",
    )
    validation_fraction: Annotated[float, Field(gt=0.0, lt=1.0)] = Field(
        0.1, description="share of the documents for validation"
    )
    test_fraction: Annotated[float, Field(gt=0.0, lt=1.0)] = Field(
        0.1, description="share of the documents for the test"
    )
    near_duplicates: Annotated[float, Field(ge=0.5, le=1.0)] | None = Field(
        None,
        description="smallest Jaccard similarity of the five-word sequences of two near-duplicates; near-duplicates "
        "stay in one drawn split, and are counted as leaked between given splits; None does not search for them",
    )

    @property
    def reading(self) -> Reading:
        """How the files are read."""
        texts = (self.text_column,) if isinstance(self.text_column, str) else self.text_column
        names = Reading.model_fields.keys() - {"text_column"}
        return Reading(text_column=texts, **{name: getattr(self, name) for name in names})

    def require_source(self) -> str | tuple[str, ...]:
        """Return the source.

        Raises:
            ConfigError: it is not set. A run needs a corpus; scoring with a registered model does not.
        """
        if self.source is None:
            raise ConfigError("corpus.source: not set; name your corpus with --set corpus.source=FILE")
        return self.source

    @model_validator(mode="after")
    def _leave_something_to_train_on(self) -> Self:
        if self.validation_fraction + self.test_fraction >= 1.0:
            raise ValueError(
                f"validation_fraction + test_fraction leave nothing to train on: "
                f"{self.validation_fraction} + {self.test_fraction} >= 1"
            )
        return self

    @model_validator(mode="after")
    def _tell_columns_apart(self) -> Self:
        texts = (self.text_column,) if isinstance(self.text_column, str) else self.text_column
        if self.label_column in texts:
            raise ValueError(
                f"text_column and label_column should be different columns, both are {self.label_column!r}"
            )
        repeated = sorted({name for name in texts if texts.count(name) > 1})
        if repeated:
            raise ValueError(f"text_column should name each column once, it repeats {', '.join(map(repr, repeated))}")
        return self

    @model_validator(mode="after")
    def _keep_what_can_be_kept(self) -> Self:
        texts = (self.text_column,) if isinstance(self.text_column, str) else self.text_column
        for number, name in enumerate(self.keep_columns):
            if not name:
                raise ValueError("keep_columns should hold names of columns, got an empty one")
            if name in texts:
                raise ValueError(f"keep_columns should not hold a column of the text, got {name!r}")
            if name == "doc_id":
                raise ValueError("keep_columns should not hold 'doc_id', which is the name of the numbers of documents")
            if name in self.keep_columns[:number]:
                raise ValueError(f"keep_columns should name each column once, it repeats {name!r}")
        return self

    @model_validator(mode="after")
    def _say_what_to_select(self) -> Self:
        if self.format == "sql" and self.query is None:
            raise ValueError("format sql needs query, the SQL that selects the rows")
        return self

    @model_validator(mode="after")
    def _name_the_column_of_the_splitter(self) -> Self:
        if self.splitter in ("time", "group") and getattr(self, f"{self.splitter}_column") is None:
            raise ValueError(f"splitter {self.splitter} needs {self.splitter}_column")
        return self


class TokenizationConfig(Section):
    """`tokenize_corpus`: the tokenizer."""

    tokenizer: str = Field(
        "basic_english",
        min_length=1,
        description="basic_english, treebank, whitespace; unicode_words for languages with spaces; chinese, japanese "
        "or thai with the extra of that name; characters for any script; a name that torchtext's get_tokenizer takes; "
        "or <module>:<function>, a function from a text to a list of tokens that GLOVEFLOW_TOKENIZERS lists",
    )
    shard_documents: Positive = Field(10_000, description="documents per token shard")


class VocabularyConfig(Section):
    """`build_vocabulary`: which tokens get an id."""

    specials: Annotated[tuple[str, ...], Field(min_length=2)] = Field(
        ("<pad>", "<unk>"), description="tokens with the first ids: padding, unknown token, and any others"
    )
    min_freq: Annotated[Positive, ByRule()] = Field(
        AUTO, description="occurrences in the train split that a token needs"
    )
    max_size: Annotated[int, Field(ge=3)] | None = Field(
        100_000, description="largest number of tokens, specials included; None keeps all"
    )
    extend_from_vectors: Annotated[int, Field(ge=0), ByRule()] = Field(
        AUTO, description="number of tokens from the start of the vectors that are added, even if the corpus lacks them"
    )

    @model_validator(mode="after")
    def _keep_the_specials_apart(self) -> Self:
        if len(set(self.specials)) < len(self.specials):
            raise ValueError(f"specials must differ, got {', '.join(self.specials)}")
        if self.max_size is not None and self.max_size <= len(self.specials):
            raise ValueError(f"max_size {self.max_size} leaves no room beside {len(self.specials)} specials")
        return self


class EmbeddingsConfig(Section):
    """`download_glove`: which word vectors."""

    unkeyed = frozenset({"source", "keep", "on_failure", "offline", "timeout_seconds"})

    source: str = Field(
        "glove.6B.50d",
        min_length=1,
        description="a published set such as 6B.100d, fasttext.LANGUAGE such as fasttext.de, a file (.txt, .vec, .bin, "
        ".gz, .zip), an https URL, or none",
    )
    dim: Annotated[int, Field(ge=1, le=4096)] = Field(50, description="values per vector")
    on_failure: Literal["error", "train_from_scratch"] = Field(
        "error", description="what to do when the vectors cannot be had"
    )
    max_vectors: Positive | None = Field(None, description="read only the first vectors of the file")
    keep: str | None = Field(
        None, min_length=1, description="file of tokens, text or Parquet: only their vectors are kept; None keeps all"
    )
    max_dropped_fraction: Fraction = Field(
        0.01, description="share of lines that may be unusable before the file is refused"
    )
    offline: bool = Field(False, description="never open a network connection")
    timeout_seconds: Annotated[float, Field(gt=0)] = Field(
        3600.0, description="deadline in seconds for a whole download, retries included"
    )


class AlignmentConfig(Section):
    """`align_embeddings`: which vector each token of the vocabulary gets."""

    fallbacks: tuple[Literal["lowercase", "diacritics", "digits", "number", "hyphen"], ...] = Field(
        ("lowercase",),
        description="what is looked up, in this order, for a token that the set lacks: its lower case; without "
        "diacritics; each digit as 0; <number> for a number; the mean of its hyphenated pieces",
    )
    missing: Literal["random", "mean", "zero"] = Field(
        "random", description="row of a token without a vector; random has the mean and deviation of the set"
    )
    min_token_coverage: Fraction | None = Field(
        None, description="smallest accepted share of train tokens with a vector; None accepts any"
    )


class BucketingConfig(Section):
    """`bucket_corpus`: how documents are truncated, grouped by length and batched."""

    max_length: Annotated[Positive, ByRule()] = Field(AUTO, description="largest number of tokens kept of a document")
    truncation: Literal["head", "tail", "head_tail"] = Field(
        "head", description="part of a longer document that is kept; head_tail keeps half of each"
    )
    scheme: BatchingScheme = Field(
        "optimal",
        description="how batch-mates are found: quantile, fixed_width, optimal: in buckets with equal numbers of "
        "documents, of equal width, with the least padding; sorted_pool: random pools sorted by length; token_budget: "
        "the buckets of optimal, batches of about equal numbers of tokens; none: at random",
    )
    num_buckets: Positive = Field(16, description="largest number of buckets")
    batch_size: Annotated[Positive, ByRule()] = Field(AUTO, description="documents per batch")
    token_budget: Positive | None = Field(
        None,
        description="largest number of padded tokens per batch of token_budget; None is batch_size times the "
        "mean length",
    )


class BaselineConfig(Section):
    """`train_baseline`: a linear model over n-grams of tokens and pieces of words.

    What is `auto` is chosen on validation documents, with models of a part of the train documents if there are many.
    """

    ngram_max: Annotated[int, Field(ge=1, le=3)] = Field(3, description="most tokens of an n-gram")
    pieces: bool | Literal["auto"] = Field("auto", description="use 3 to 5 characters of a token as features, too")
    weighting: Literal["auto", "idf", "log_ratio"] = Field(
        "auto",
        description="of the features: idf by their rarity (TF-IDF), log_ratio by what they tell of a class (NBSVM)",
    )
    regularization: Annotated[float, Field(gt=0)] | Literal["auto"] = Field(
        "auto", description="C, the inverse strength of the L2 penalty"
    )
    min_df: Positive = Field(2, description="train documents that a feature must occur in")
    max_iterations: Positive = Field(100, description="most iterations of the solver")


class ModelConfig(Section):
    """The classifier: embedding, LSTM, pooling, linear layer."""

    hidden_size: Positive = Field(128, description="LSTM units per direction")
    num_layers: Annotated[int, Field(ge=1, le=8)] = Field(1, description="stacked LSTM layers")
    bidirectional: bool = Field(True, description="read the text in both directions")
    pooling: Literal["last", "mean", "max", "mean_max", "attention"] = Field(
        "mean_max", description="how the outputs become one vector; last takes the last real output of each direction"
    )
    dropout: Rate = Field(0.5, description="dropout between layers and before the linear layer")
    embedding_dropout: Rate = Field(0.3, description="dropout of whole embedding dimensions of a document")
    word_dropout: Rate = Field(0.1, description="dropout of whole tokens, which the network then sees as unknown")
    recurrent_dropout: Rate = Field(0.0, description="dropout of hidden-to-hidden weights")
    layer_norm: bool = Field(False, description="normalize the pooled vector")
    pool_embeddings: bool = Field(True, description="append mean and maximum of the embeddings to the pooled outputs")
    bigram_buckets: Annotated[int, Field(ge=0, le=1 << 26), ByRule()] = Field(
        AUTO,
        description="rows of the table of a linear classifier over hashed token pairs, added to the logits; 0: off",
    )
    freeze_embeddings: bool = Field(False, description="do not train the pre-trained vectors")


class TrainingConfig(Section):
    """`train_classifier`: the optimizer and the loop."""

    unkeyed = frozenset({"seeds", "checkpoint_minutes", "checkpoint_steps", "resume_elsewhere"})

    seeds: tuple[Seed, ...] = Field(
        (), description="train once per seed and keep the best by validation; empty trains once, with the run's seed"
    )
    epochs: Annotated[Positive, ByRule()] = Field(AUTO, description="most passes over the train split")
    optimizer: Literal["adam", "adamw"] = Field("adamw", description="update rule")
    learning_rate: Annotated[float, Field(gt=0, le=1), ByRule()] = Field(AUTO, description="peak learning rate")
    embedding_learning_rate: Annotated[float, Field(gt=0, le=1)] | None = Field(
        None, description="peak learning rate of the embeddings; None is learning_rate"
    )
    frozen_epochs: Annotated[int, Field(ge=0)] = Field(
        0, description="first epochs in which pre-trained vectors are not trained"
    )
    weight_decay: Annotated[float, Field(ge=0)] = Field(
        1e-4, description="weight decay: decoupled for adamw, an L2 penalty for adam"
    )
    schedule: Literal["one_cycle", "cosine", "plateau", "constant"] = Field(
        "cosine", description="learning rate over the steps; plateau halves it after an epoch without a better metric"
    )
    warmup: Fraction = Field(0.15, description="share of all steps in which the learning rate rises to its peak")
    clip_norm: Annotated[float, Field(gt=0)] | None = Field(1.0, description="largest gradient norm; None: off")
    accumulation: Positive = Field(1, description="batches per optimizer step")
    class_weights: Literal["balanced"] | None = Field(
        None, description="balanced gives every class the same weight in the loss; None every document"
    )
    label_smoothing: Rate = Field(0.0, description="share of the target that is spread evenly over the classes")
    adversarial: float = Field(
        0.0,
        ge=0,
        allow_inf_nan=False,
        description="Euclidean distance by which a document's embeddings are moved to raise the loss, in half of the "
        "loss; 0: off",
    )
    ema_decay: Rate | None = Field(
        0.98, description="decay per step of the moving average of the weights that is validated and kept; None: off"
    )
    precision: Literal["auto", "fp32", "tf32", "bf16"] = Field(
        "auto", description="number format of the products; auto is bf16 on CPUs with AMX tiles, fp32 elsewhere"
    )
    metric: Literal["macro_f1", "accuracy", "loss"] = Field(
        "macro_f1", description="validation metric that decides which epoch is best"
    )
    patience: Positive | None = Field(
        None, description="epochs without a better metric after which training ends; None: off"
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto is CUDA where there is one")
    layout: Literal["padded", "packed"] = Field(
        "padded", description="layout of the sequences of a batch in the LSTM; packed is slower, on CPUs and on CUDA"
    )
    threads: Positive | None = Field(None, description="CPU threads of torch; None leaves torch's default")
    log_every_steps: Positive = Field(10, description="steps from one logged point of the step metrics to the next")
    checkpoint_minutes: Annotated[float, Field(ge=0)] | None = Field(
        5.0, description="minutes from one checkpoint to the next; None: off"
    )
    checkpoint_steps: Positive | None = Field(None, description="steps from one checkpoint to the next; None: off")
    resume_elsewhere: bool = Field(
        False, description="resume from a checkpoint of another machine or version of torch; the result is tagged"
    )


class EvaluationConfig(Section):
    """`evaluate_classifier`: what the scores are read for."""

    wanted_precision: Annotated[float, Field(gt=0, le=1)] = Field(
        0.9, description="precision for which the evaluation looks for a smallest confidence of each class"
    )


class PipelineConfig(Section):
    """Everything one run depends on."""

    name: ExperimentName = Field(
        "custom", description="name of the experiment and the model: lowercase letters, digits and -"
    )
    seed: Seed = Field(0, description="seed of splits, initial weights, batches")
    corpus: CorpusConfig = CorpusConfig()
    tokenization: TokenizationConfig = TokenizationConfig()
    vocabulary: VocabularyConfig = VocabularyConfig()
    embeddings: EmbeddingsConfig = EmbeddingsConfig()
    alignment: AlignmentConfig = AlignmentConfig()
    bucketing: BucketingConfig = BucketingConfig()
    baseline: BaselineConfig = BaselineConfig()
    model: ModelConfig = ModelConfig()
    training: TrainingConfig = TrainingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    registration: RegistrationConfig = RegistrationConfig()
    scoring: ScoringConfig = ScoringConfig()
    housekeeping: HousekeepingConfig = HousekeepingConfig()
    monitoring: MonitoringConfig = MonitoringConfig()

    @model_validator(mode="before")
    @classmethod
    def _accept_old_names(cls, values: Any) -> Any:
        return rename_settings(values) if isinstance(values, Mapping) else values

    @property
    def registered_model(self) -> str:
        """Name under which versions of this model are registered."""
        return self.registration.model or f"gloveflow-{self.name}"
