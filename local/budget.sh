# Sourced by run.sh and reproduce.sh: options of train.py for two hours of speech, and for what both do in the last epochs.

# Thousands of steps instead of hundreds of thousands: all that the recipe spreads over its training happens sooner, short
# cuts come first and none is left out, and CTC beside the transducer loss makes the encoder listen from the beginning.
small=(--max-duration 12 --min-duration 0 --max-cut-duration 0 --curriculum 2:2 --ctc-loss-scale 1 --base-lr 0.03
  --ref-duration 0.12 --lr-batches 4000 --lr-epochs 6 --lr-warmup-batches 100 --warm-step 200 --average-period 10
  --num-workers 1 --drop-last false --enable-spec-aug false --enable-musan false --valid-interval 1000000)

# The last two epochs have what a stream has besides utterances: pauses, noise, and what was said before.
joined=(--concatenate-cuts true --duration-factor 4 --gap 0.5)
noise=(--noise-only-share 0.1 --leading-silence 0.5)
last_two() { # epochs -> the first of them
  echo $(($1 > 2 ? $1 - 1 : 1))
}
