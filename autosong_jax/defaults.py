"""Every field of a config, with its meaning and its default. A config file says what differs."""

import ml_collections


def base() -> ml_collections.ConfigDict:
    """The default values."""
    config = ml_collections.ConfigDict()
    config.seed = 0  # of the initial parameters, the order and windows of the songs, dropout and samples

    config.data = data = ml_collections.ConfigDict()
    data.path = ""  # a dataset that data_prep.export made
    data.seconds = 30.0  # window of a training example, cut at a random place of the song
    data.beginnings = False  # windows are the beginnings of songs alone
    # Of models without sources: windows have so many frames at first, and double to their full length over some steps.
    data.first_frames = 64
    data.curriculum_steps = 0  # 0 for full windows from the first step on
    data.batch_size = 192  # songs a step, over all devices and accumulation parts
    data.end_of_song = True  # train the model to say when a song is over

    # What `train --plan` takes a dataset's codec and text encoder to be while none is given. Training asks the dataset.
    config.assumed = assumed = ml_collections.ConfigDict()
    assumed.codec = "encodec_32khz"
    assumed.sample_rate = 32_000  # Hz
    assumed.frame_rate = 50.0  # Hz
    assumed.num_codebooks = 4
    assumed.codebook_size = 2048
    assumed.text_encoder = "bytes"
    assumed.text_width = 0  # of the states of a frozen encoder; 0 where the model reads ids

    # Condition sources by name: lyrics, genre, description; chroma; backing, style; position. Codec and text encoder
    # are those of the dataset: a bidirectional transformer of the size given here reads ids and codes, one linear layer
    # all else. A source that tells windows of a song where they begin:
    # sources.position = source(kind="position", max_length=1)
    config.sources = ml_collections.ConfigDict()
    config.sources.lyrics = source(max_length=2048, width=512, heads=8, layers=6)
    config.sources.genre = source(max_length=64, width=128, heads=4, layers=1)

    config.model = model = ml_collections.ConfigDict()
    model.width = 512
    model.heads = 8
    model.layers = 12
    model.mlp_width = 2048
    model.norm = "pre"  # pre | post
    model.activation = "gelu"  # gelu (exact) | relu
    model.positions = "sinusoidal"  # sinusoidal | learned | rotary
    model.max_positions = 4096  # size of the table of learned positions
    model.bias = False  # in attention and MLP
    model.dropout = 0.0
    model.fusion = "cross"  # cross (attention to the memory) | prefix (the memory is read first)
    model.dropped = "absent"  # absent | null: whether a dropped source leaves nothing in the memory, or empty slots
    model.pattern = "delay"  # delay | flatten | parallel | coarse_first
    model.delays = ()  # frames by which each codebook is late; () is 0, 1, 2, ...
    model.dtype = "auto"  # of the computation; auto is bfloat16 on GPU and TPU, float32 on CPU. Parameters are float32.

    config.objective = objective = ml_collections.ConfigDict()
    # Of codes: next_step | masked_spans (MAGNeT) | both, step by step in turns. Of mel spectrograms: next_latent, over
    # an autoencoder's latents | reconstruction, of that autoencoder. Of sound itself: vocoding.
    objective.name = "next_step"
    # Of next_step: the share of a song's codes in whose place the model reads what it would itself have sung there, as
    # it will when it sings, where nothing is right by itself. It grows in a line, from 0, over so many steps. Costs a
    # second pass of the decoder.
    objective.scheduled_sampling = 0.0
    objective.scheduled_sampling_steps = 10_000
    # Of masked_spans, which has no pattern: it reads and writes whole frames, the codebooks one after another.
    objective.span_length = 3  # frames that are masked together
    objective.context_ms = 100.0  # how far codebooks after the first see on each side; 0 for the whole song

    # Of reconstruction and vocoding: a game against a discriminator, where the model has one.
    objective.adversarial = 0.1  # weight of the discriminator's verdict
    objective.feature_matching = 1.0  # weight of the distance between its features of what is real and what was made
    objective.adversarial_start = 0  # the step from which on there is a game
    objective.prior = 1e-4  # of reconstruction: weight of the mean square of the latents
    objective.mel_weight = 15.0  # of vocoding: of the L1 of mels beside the distance of spectra

    config.autoencoder = autoencoder = ml_collections.ConfigDict()  # of mel spectrograms; 16 frames are a column
    autoencoder.channels = 4  # of 16 frames x 16 bands; more lose less
    autoencoder.width = 64
    autoencoder.blocks = 1  # residual blocks at each of the four resolutions
    autoencoder.norm = "instance"  # of the decoder: instance | level, which keeps how loud a block is
    autoencoder.block_columns = 16  # that are decoded together
    autoencoder.overlap = 4  # columns that two blocks share
    autoencoder.discriminator_width = 0  # of the discriminator that it is trained against; 0 for none

    config.vocoder = vocoder = ml_collections.ConfigDict()  # from mel spectrograms to sound
    vocoder.n_fft = 0  # of the mel spectrograms that it reads, as are the next two: see `--codec=mel`
    vocoder.n_mels = 256
    vocoder.floor = -90.0
    vocoder.width = 512
    vocoder.blocks = 8
    vocoder.mlp_width = 1536
    vocoder.discriminator_width = 0  # of the discriminator that it is trained against; 0 for none

    config.latents = latents = ml_collections.ConfigDict()  # of next_latent
    latents.workdir = ""  # of a trained autoencoder; where training starts its config.autoencoder counts
    latents.vocoder = ""  # of a trained vocoder, which songs are to be heard by; "" for Griffin-Lim
    latents.order = "column"  # column: a step has all 16 frames x all bands | raster: the rows of a column in turns
    latents.head = "flow"  # regression (L1) | mixture (of Gaussians) | flow | distilled (a flow of one to four steps)
    latents.residual = False  # predict differences from the latent before
    latents.noise = True  # the decoder reads a noisy history in training, so that it stands its own errors
    latents.short_context = 10  # last latents that the head reads as they are; 0 for none
    latents.mlp_layers = 1  # of regression and mixture: hidden layers
    latents.mlp_width = 512
    latents.adversarial = 0.0  # of regression: weight of a discriminator's verdict; 0 for none
    latents.components = 16  # of mixture
    latents.layers = 6  # of flow and distilled: blocks of the network
    latents.hidden = 512  # and their width
    latents.draws = 4  # of noise, a step
    latents.steps = 8  # from noise to a latent; of a flow, each goes through the network twice

    config.lora = lora = ml_collections.ConfigDict()
    lora.rank = 0  # of what is trained beside the kernels of linear layers; 0 for none
    lora.alpha = 16.0  # what is added is scaled by alpha / rank
    # Regular expressions, found in the paths of the layers that get it.
    lora.targets = ("decoder/blocks/(self_attention|cross_attention)/(q|k|v|out)",)

    config.init = init = ml_collections.ConfigDict()
    init.workdir = ""  # a trained or converted model to start from: what it has of the parameters; "" for none

    config.optimizer = optimizer = ml_collections.ConfigDict()
    optimizer.learning_rate = 3e-4  # AdamW, peak of the schedule
    optimizer.embedding_learning_rate = 0.0  # the same of tables: of codes, characters, positions; 0 for learning_rate
    optimizer.discriminator_learning_rate = 0.0  # the same of a discriminator, where there is one
    optimizer.warmup_steps = 1000  # linear, from 0 to the peak
    # What comes after: cosine | linear, to final_learning_rate at the last step; step | plateau, by drops that never go
    # below it; constant.
    optimizer.schedule = "cosine"
    optimizer.final_learning_rate = 0.0
    optimizer.drop_factor = 0.5  # what a drop multiplies the rate by
    optimizer.drop_every = 10_000  # of step: steps from one drop to the next
    optimizer.patience = 5  # of plateau: it drops after so many evaluations without a lower validation loss
    optimizer.b1 = 0.9
    optimizer.b2 = 0.95
    optimizer.eps = 1e-8
    optimizer.weight_decay = 0.1  # of matrices and tables
    optimizer.clip_norm = 1.0  # global norm of the gradient

    config.train = train = ml_collections.ConfigDict()
    train.steps = 100_000
    # Regular expressions: a parameter is trained where one is found in its path. The rest is frozen: kept as it is, in
    # model.dtype, and saved once.
    train.trainable = (".*",)
    train.accumulation = 1  # parts that a batch is computed in
    train.ema_decay = 0.99  # moving average of the weights, used for evaluation and sampling; 0 for none
    train.ema_every = 10  # steps between its updates
    train.remat = "none"  # none | dots | full: what the backward pass computes again instead of keeping
    train.unroll = False  # compile every layer by itself: faster steps, where compiling them for longer pays
    train.log_every = 50
    # Who gets the numbers and samples beside metrics.jsonl: tensorboard, wandb, trackio. The last two take packages of
    # their own (pip install 'autosong_jax[wandb]'), and logins and modes from their own commands and variables.
    train.writers = ("tensorboard",)
    train.project = "autosong_jax"  # at wandb and trackio; the run is called as its workdir
    train.eval_every = 1000  # steps between passes over the validation split; 0 for none
    # Metrics of whole songs, sung with the lyrics of the validation split: note_error_rate, silence, clipping, ...;
    # `python -m autosong_jax.evaluate` has the same. () for none: nothing is sung for them.
    train.evaluations = ()
    train.sing_every = 1000  # steps between them
    train.sing_songs = 8  # the first of the split
    train.checkpoint_every = 1000  # a multiple of log_every
    train.keep_last = 2  # checkpoints kept: the newest, and the best
    train.keep_best = 3
    train.best_by = "validation/loss"  # by which number of which kind of line: "validation/accuracy", "sung/silence"
    train.sample_every = 5000  # steps between samples of `prompts`, written as audio to workdir/samples; 0 for none
    train.prompts = ("validation:0", "validation:1", "train:0")  # songs of the dataset to sing, SPLIT:NUMBER

    config.mesh = mesh = ml_collections.ConfigDict()
    mesh.data = 1  # devices along each axis; -1 is all that are left
    mesh.fsdp = -1
    mesh.tensor = 1

    config.sampling = sampling = ml_collections.ConfigDict()  # what `generate` does unless told otherwise
    sampling.temperature = 1.0
    sampling.top_k = 250
    sampling.top_p = 1.0
    sampling.cfg_scale = 3.0  # guidance, of every source that sampling.cfg_scales does not name
    sampling.cfg_scales = ml_collections.ConfigDict()  # by name, in a config file: {"lyrics": 4.0}
    sampling.overlap = 0.4  # share of a window that the next one starts from, in songs longer than data.seconds

    sampling.masked = masked = ml_collections.ConfigDict()  # of a masked model, in place of the first five
    masked.steps = (20, 10, 10, 10)  # forward passes for each codebook
    masked.temperature = 3.0  # of the first pass of a codebook; 0 is greedy, and judges spans at 1
    masked.anneal = True  # the temperature falls to 0 from pass to pass; else it stays
    masked.top_k = 0
    masked.top_p = 0.9
    masked.cfg_scale = 10.0  # guidance of the first pass of a codebook
    masked.cfg_scales = ml_collections.ConfigDict()  # by name, as above
    masked.cfg_scale_min = 1.0  # guidance of the last pass, of every source
    masked.arrangement = "nonoverlap"  # nonoverlap | stride1: spans to sample anew stand side by side, or anywhere
    masked.trim = False  # the model sees no more than the song, in whole spans, as MAGNeT was released; else a window
    masked.confidence = "max"  # max | product: of the probabilities in a span; stride1 always takes the product
    masked.hybrid_seconds = 0.0  # so much of a song's beginning is sung step by step, where a model can do both
    masked.rescore_weight = 0.5  # of an external model's probability in the confidence, where one is given
    return config


def source(*, max_length: int, width: int = 0, heads: int = 0, layers: int = 0, dropout: float = 0.1,
           kind: str = "text") -> ml_collections.ConfigDict:
    """A condition source: `max_length` in ids, states or frames, `dropout` the share of songs for which it is dropped.

    Its `kind` is "text"; "chroma" for the melody of a recording; "backing" for the codes of what is heard beside the
    song, or "style" for those of an excerpt from outside of the window; or "position", one slot that says where in its
    song a window begins. The sizes are of the encoder that reads ids or codes; codes may do without layers, and a width
    of 0 is then that of the model.
    """
    return ml_collections.ConfigDict({"kind": kind, "max_length": max_length, "dropout": dropout, "width": width,
                                      "heads": heads, "layers": layers})
