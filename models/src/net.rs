//! The autoencoder and its training: convolutions along time with ReLU straight behind, written out by hand
//! so that the trainer needs no framework. Encoded windows in, weights out. The trainer makes the shipped
//! model of it; the playground trains small ones on other people's services.
//!
//! ```text
//! [16, 16] ─conv 3/2─► [32, 8] ─conv 3/2─► [8, 4] ─conv 3─► [64, 4] ─conv 3─► [64, 4] ─reshape─► [16, 16]
//!           ReLU                ReLU                ReLU
//! ```
//!
//! Output channel `4c + k` at position `p` is feature `c` at step `4p + k`: one reshape instead of an
//! upsampling, which quantises better and runs anywhere.
#![expect(clippy::indexing_slicing, reason = "matrices of known shapes; a trainer may panic")]

use crate::random::Random;
use faultline_core::encode::{STEPS, clip};
use ndarray::{Array1, Array2, ArrayView2, Axis, s};

/// A convolution's kernel along time.
pub const KERNEL: usize = 3;
/// Steps that one position of the last layer stands for.
pub const FOLD: usize = 4;
/// Channels of the narrowest layer: few, or the net learns to repeat what it never saw, faults included.
const NARROW: usize = 8;
/// Channels of the layer before and of the layer behind the narrowest.
const WIDE: (usize, usize) = (32, 64);

/// One convolution: weights `[out, in * KERNEL]`, padding 1.
#[derive(Clone)]
pub struct Layer {
    /// `[out, in * KERNEL]`
    pub weights: Array2<f32>,
    /// One for each output channel.
    pub bias: Array1<f32>,
    /// Input positions an output position.
    pub stride: usize,
}

/// The whole net.
#[derive(Clone)]
pub struct Net {
    /// First to last.
    pub layers: Vec<Layer>,
}

/// One training window: features and presence, `[channels, STEPS]`.
pub type Sample = (Array2<f32>, Array2<f32>);

/// What a layer's weights and bias should go against.
type Gradient = (Array2<f32>, Array1<f32>);

impl Net {
    /// A net for so many channels, with random weights.
    #[must_use]
    pub fn new(channels: usize, random: &mut Random) -> Self {
        // Channels in, channels out, stride.
        let layers =
            [(channels, WIDE.0, 2), (WIDE.0, NARROW, 2), (NARROW, WIDE.1, 1), (WIDE.1, channels * FOLD, 1)];
        let layers = layers.into_iter().map(|(input, output, stride)| {
            let spread = (2.0 / (input * KERNEL) as f64).sqrt();
            Layer {
                weights: Array2::from_shape_fn((output, input * KERNEL), |_| {
                    (random.normal() * spread) as f32
                }),
                bias: Array1::zeros(output),
                stride,
            }
        });
        Self { layers: layers.collect() }
    }

    /// The input of each layer and the last layer's output, `[channels, batch * positions]`.
    #[must_use]
    pub fn activations(&self, batch: &[ArrayView2<'_, f32>]) -> Vec<Array2<f32>> {
        let mut activations = vec![side_by_side(batch)];
        let last = self.layers.len() - 1;
        for (index, layer) in self.layers.iter().enumerate() {
            if let Some(input) = activations.last() {
                let columns = columns(input, batch.len(), layer.stride);
                let mut output = layer.weights.dot(&columns);
                output += &layer.bias.view().insert_axis(Axis(1));
                if index < last {
                    output.mapv_inplace(|x| x.max(0.0));
                }
                activations.push(output);
            }
        }
        activations
    }

    /// The reconstruction of each window, `[channels, STEPS]`.
    #[must_use]
    pub fn reconstruct(&self, batch: &[ArrayView2<'_, f32>]) -> Vec<Array2<f32>> {
        let activations = self.activations(batch);
        let output = &activations[self.layers.len()];
        let shape = batch.first().map_or((0, STEPS), |window| window.dim());
        let of = |sample| Array2::from_shape_fn(shape, |place| output[unfolded(sample, place)]);
        (0..batch.len()).map(of).collect()
    }
}

/// Where the last layer puts a (channel, step) of a sample.
fn unfolded(sample: usize, (channel, step): (usize, usize)) -> [usize; 2] {
    [FOLD * channel + step % FOLD, sample * (STEPS / FOLD) + step / FOLD]
}

/// Adam's step size at the start; it falls linearly to a tenth.
const RATE: f32 = 2e-3;
const BATCH: usize = 64;

/// How training inputs are spoiled, so that the net learns to undo faults, not to repeat them: some channels
/// are shifted for some of the newest steps, and the target stays what it was.
pub struct Spoiling {
    /// This share of the inputs is spoiled.
    pub share: f64,
    /// Channels that a fault moves together; one group, chosen at random, is shifted.
    pub groups: Vec<Vec<usize>>,
    /// Each other channel of a spoiled input is shifted with this chance.
    pub others: f64,
}

/// A training input: the sample, or a spoiled copy.
fn spoil((values, present): &Sample, spoiling: &Spoiling, random: &mut Random) -> Array2<f32> {
    let mut input = values.clone();
    if random.uniform() < spoiling.share {
        let first = (random.uniform() * STEPS as f64) as usize;
        let sign = if random.uniform() < 0.7 { 1.0 } else { -1.0 };
        let shift = sign * random.between(2.0, 8.0);
        let group = &spoiling.groups[(random.uniform() * spoiling.groups.len() as f64) as usize];
        for channel in 0..values.nrows() {
            if group.contains(&channel) || random.uniform() < spoiling.others {
                for step in first..STEPS {
                    let place = [channel, step];
                    input[place] = clip(f64::from(values[place]) + shift) as f32 * present[place];
                }
            }
        }
    }
    input
}

/// Trains on the samples; gives the mean loss of the last pass.
pub fn train(
    net: &mut Net,
    samples: &[Sample],
    spoiling: &Spoiling,
    passes: usize,
    random: &mut Random,
) -> f64 {
    let mut adam = Adam::new(net);
    let batches = samples.len().div_ceil(BATCH).max(1);
    let mut loss = 0.0;
    for pass in 0..passes {
        let order = random.order(samples.len());
        loss = 0.0;
        for (number, chosen) in order.chunks(BATCH).enumerate() {
            let targets: Vec<&Sample> = chosen.iter().filter_map(|index| samples.get(*index)).collect();
            let inputs: Vec<Array2<f32>> =
                targets.iter().map(|sample| spoil(sample, spoiling, random)).collect();
            let views: Vec<_> = inputs.iter().map(|window| window.view()).collect();
            let (gradients, batch_loss) = gradients(net, &views, &targets);
            let done = (pass * batches + number) as f32 / (passes * batches) as f32;
            adam.step(net, &gradients, RATE * (1.0 - 0.9 * done));
            loss += batch_loss / batches as f64;
        }
    }
    loss
}

/// Gradients of the mean squared error over what was measured, by layer: weights and bias.
fn gradients(net: &Net, batch: &[ArrayView2<'_, f32>], targets: &[&Sample]) -> (Vec<Gradient>, f64) {
    let activations = net.activations(batch);
    let measured: f32 = targets.iter().map(|(_, present)| present.sum()).sum::<f32>().max(1.0);
    let mut loss = 0.0;
    let output = &activations[net.layers.len()];
    let mut gradient = Array2::zeros(output.raw_dim());
    for (sample, (values, present)) in targets.iter().enumerate() {
        for (at, value) in values.indexed_iter() {
            let place = unfolded(sample, at);
            let difference = (output[place] - value) * present[at];
            loss += f64::from(difference * difference / measured);
            gradient[place] = 2.0 * difference / measured;
        }
    }
    let mut gradients = Vec::new();
    for (index, layer) in net.layers.iter().enumerate().rev() {
        if index + 1 < net.layers.len() {
            // ReLU passes the gradient where it passed the value.
            gradient.zip_mut_with(&activations[index + 1], |gradient, value| {
                if *value <= 0.0 {
                    *gradient = 0.0;
                }
            });
        }
        let input = &activations[index];
        let columns = columns(input, batch.len(), layer.stride);
        gradients.push((gradient.dot(&columns.t()), gradient.sum_axis(Axis(1))));
        let spread = layer.weights.t().dot(&gradient);
        gradient = uncolumns(&spread, input.dim(), batch.len(), layer.stride);
    }
    gradients.reverse();
    (gradients, loss)
}

/// `[channels, batch * STEPS]`
fn side_by_side(batch: &[ArrayView2<'_, f32>]) -> Array2<f32> {
    let channels = batch.first().map_or(0, |window| window.nrows());
    let mut all = Array2::zeros((channels, batch.len() * STEPS));
    for (sample, window) in batch.iter().enumerate() {
        all.slice_mut(s![.., sample * STEPS..(sample + 1) * STEPS]).assign(window);
    }
    all
}

/// Each output position's inputs as a column: `[channels * KERNEL, batch * positions out]`.
fn columns(input: &Array2<f32>, batch: usize, stride: usize) -> Array2<f32> {
    let (channels, width) = input.dim();
    let positions = width / batch;
    let outputs = positions / stride;
    let mut columns = Array2::zeros((channels * KERNEL, batch * outputs));
    each(positions, outputs, batch, stride, |tap, from, to| {
        for channel in 0..channels {
            columns[[channel * KERNEL + tap, to]] = input[[channel, from]];
        }
    });
    columns
}

/// The transpose of [`columns`]: sums what each input gave.
fn uncolumns(spread: &Array2<f32>, shape: (usize, usize), batch: usize, stride: usize) -> Array2<f32> {
    let positions = shape.1 / batch;
    let mut input = Array2::zeros(shape);
    each(positions, positions / stride, batch, stride, |tap, from, to| {
        for channel in 0..shape.0 {
            input[[channel, from]] += spread[[channel * KERNEL + tap, to]];
        }
    });
    input
}

/// Visits (kernel tap, input column, output column) of a convolution with padding 1.
fn each(
    positions: usize,
    outputs: usize,
    batch: usize,
    stride: usize,
    mut visit: impl FnMut(usize, usize, usize),
) {
    for sample in 0..batch {
        for output in 0..outputs {
            for tap in 0..KERNEL {
                let place = output * stride + tap;
                if (1..=positions).contains(&place) {
                    visit(tap, sample * positions + place - 1, sample * outputs + output);
                }
            }
        }
    }
}

/// Adam (Kingma and Ba 2015) with its usual constants.
struct Adam {
    moments: Vec<[(Array2<f32>, Array1<f32>); 2]>,
    steps: i32,
}

impl Adam {
    fn new(net: &Net) -> Self {
        let zero = |layer: &Layer| (Array2::zeros(layer.weights.raw_dim()), Array1::zeros(layer.bias.len()));
        let moments = net.layers.iter().map(|layer| [zero(layer), zero(layer)]).collect();
        Self { moments, steps: 0 }
    }

    fn step(&mut self, net: &mut Net, gradients: &[Gradient], rate: f32) {
        const DECAY: (f32, f32) = (0.9, 0.999);
        self.steps += 1;
        let (first, second) = (1.0 - DECAY.0.powi(self.steps), 1.0 - DECAY.1.powi(self.steps));
        let update = |x: &mut f32, m: &mut f32, v: &mut f32, g: f32| {
            *m = DECAY.0 * *m + (1.0 - DECAY.0) * g;
            *v = DECAY.1 * *v + (1.0 - DECAY.1) * g * g;
            *x -= rate * (*m / first) / ((*v / second).sqrt() + 1e-8);
        };
        for ((layer, moments), (weights, bias)) in net.layers.iter_mut().zip(&mut self.moments).zip(gradients)
        {
            let [mean, square] = moments;
            ndarray::Zip::from(&mut layer.weights)
                .and(&mut mean.0)
                .and(&mut square.0)
                .and(weights)
                .for_each(|x, m, v, g| update(x, m, v, *g));
            ndarray::Zip::from(&mut layer.bias)
                .and(&mut mean.1)
                .and(&mut square.1)
                .and(bias)
                .for_each(|x, m, v, g| update(x, m, v, *g));
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests may panic")]
    use super::*;

    const CHANNELS: usize = 16;

    #[test]
    fn gradients_agree_with_differences() {
        let mut random = Random::new(3);
        let mut net = Net::new(CHANNELS, &mut random);
        let values = Array2::from_shape_fn((CHANNELS, STEPS), |_| random.normal() as f32);
        let sample: Sample = (values.clone(), Array2::ones((CHANNELS, STEPS)));
        let loss = |net: &Net| gradients(net, &[values.view()], &[&sample]).1;
        let (found, _) = gradients(&net, &[values.view()], &[&sample]);
        for (layer, place) in [(0, [3, 5]), (1, [2, 40]), (2, [33, 7]), (3, [10, 100])] {
            let step = 1e-2_f32;
            net.layers[layer].weights[place] += step;
            let above = loss(&net);
            net.layers[layer].weights[place] -= 2.0 * step;
            let below = loss(&net);
            net.layers[layer].weights[place] += step;
            let expected = (above - below) / f64::from(2.0 * step);
            let difference = (expected - f64::from(found[layer].0[place])).abs();
            assert!(difference < 1e-3 + 0.05 * expected.abs(), "layer {layer}: {expected}");
        }
    }

    #[test]
    fn training_lowers_the_loss_and_a_seed_repeats_it() {
        let run = || {
            let mut random = Random::new(5);
            let mut net = Net::new(CHANNELS, &mut random);
            let spoiling = Spoiling { share: 0.7, groups: vec![vec![2, 3], vec![8]], others: 0.05 };
            let samples: Vec<Sample> = (0..128)
                .map(|_| {
                    let level = random.normal() as f32;
                    (Array2::from_elem((CHANNELS, STEPS), level), Array2::ones((CHANNELS, STEPS)))
                })
                .collect();
            train(&mut net, &samples, &spoiling, 20, &mut random)
        };
        let loss = run();
        assert!(loss < 0.5, "{loss}");
        assert_eq!(loss, run());
    }
}
