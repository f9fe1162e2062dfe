// Hands on what the microphone gives, about 20 times a second.
class Recorder extends AudioWorkletProcessor {
  constructor() {
    super();
    this.held = [];
    this.length = 0;
  }

  process([input]) {
    if (input.length) {
      this.held.push(input[0].slice());
      this.length += input[0].length;
      if (this.length >= sampleRate / 20) {
        const samples = new Float32Array(this.length);
        let place = 0;
        for (const piece of this.held) {
          samples.set(piece, place);
          place += piece.length;
        }
        this.port.postMessage(samples, [samples.buffer]);
        this.held = [];
        this.length = 0;
      }
    }
    return true;
  }
}

registerProcessor("recorder", Recorder);
