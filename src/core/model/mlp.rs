//! The MLP over the concatenated field vectors: parameters, forward and backward.
//!
//! All parameters lie in one flat vector (per layer `weight [outputs, inputs]` then `bias [outputs]`, at the end the
//! output vector), so that norm, clipping, momentum and the check for finite values are loops over one slice. Batches go
//! through a blocked matrix product; a few rows through loops over the weights as they lie, since packing them costs more.

use std::ops::Range;

use super::params::{Activation, MlpParams};
use crate::feature::hash;
use crate::kernel::{self, product};
use crate::math;

/// Slope of the leaky activation below 0.
const LEAK: f32 = 0.01;

/// Keys of the hash lanes of the MLP's initial weights, apart from the embeddings'.
const INIT_KEY: u64 = 0x4D4C_5000_0000_0000;

/// Where a hidden layer's parameters lie in the flat vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DenseLayer {
    /// Width of its input.
    pub inputs: usize,
    /// Its own width.
    pub outputs: usize,
    /// Where its weight matrix begins.
    pub weight: usize,
    /// Where its biases begin.
    pub bias: usize,
}

/// The shape of the MLP: where each parameter lies.
#[derive(Clone, Debug, PartialEq)]
pub struct MlpShape {
    /// The hidden layers.
    pub layers: Vec<DenseLayer>,
    /// Where the output vector begins.
    pub output: usize,
    /// Number of parameters.
    pub len: usize,
    /// Width of the input.
    pub inputs: usize,
    activation: Activation,
    dropout: Vec<f32>,
    seed: u64,
}

/// A part of the units of each layer, with all that leads to them, and as large a part of the output vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnitPart {
    /// Its number.
    pub number: usize,
    /// Of how many.
    pub count: usize,
}

impl UnitPart {
    /// All units.
    pub const ALL: Self = Self { number: 0, count: 1 };

    /// The parts, so many.
    pub fn each(count: usize) -> impl Iterator<Item = Self> {
        (0..count).map(move |number| Self { number, count })
    }

    /// Those of a layer.
    fn of(self, units: usize) -> Range<usize> {
        self.number * units / self.count..(self.number + 1) * units / self.count
    }
}

/// Working memory of one chunk of examples.
#[derive(Clone, Debug, Default)]
pub struct Activations {
    /// Output of each hidden layer, `[rows, outputs]`, dropout applied.
    hidden: Vec<Vec<f32>>,
    /// What dropout multiplied each unit with; empty without dropout.
    masks: Vec<Vec<f32>>,
    /// Gradient of each hidden layer before its activation, `[rows, outputs]`.
    deltas: Vec<Vec<f32>>,
    /// Sums of squares, of each row of a layer's input and of its deltas.
    squares: Vec<f64>,
}

impl MlpShape {
    /// The shape over `inputs` values; no hidden layers is no MLP.
    pub fn new(params: &MlpParams, inputs: usize, seed: u64) -> Self {
        let mut at = 0;
        let mut width = inputs;
        let mut layers = Vec::with_capacity(params.layers.len());
        for &outputs in &params.layers {
            layers.push(DenseLayer { inputs: width, outputs, weight: at, bias: at + width * outputs });
            at += width * outputs + outputs;
            width = outputs;
        }
        let len = if layers.is_empty() { 0 } else { at + width };
        let dropout = if params.dropout.iter().any(|p| *p > 0.0) { params.dropout.clone() } else { Vec::new() };
        Self { layers, output: at, len, inputs, activation: params.activation, dropout, seed }
    }

    /// Whether there is no MLP.
    pub fn is_empty(&self) -> bool {
        self.layers.is_empty()
    }

    /// Initial parameters, a function of the seed: uniform weights of variance `2 / inputs` for the rectifiers (He et
    /// al. 2015) and `2 / (inputs + outputs)` otherwise (Glorot and Bengio 2010), zero biases.
    pub fn initial(&self) -> Vec<f32> {
        let mut params = vec![0.0; self.len];
        let mut fill = |number: usize, at: usize, inputs: usize, outputs: usize| {
            let variance = match self.activation {
                Activation::Relu | Activation::LeakyRelu if outputs > 1 => 2.0 / inputs as f32,
                _ => 2.0 / (inputs + outputs) as f32,
            };
            let key = INIT_KEY + number as u64;
            for (lane, param) in params[at..at + inputs * outputs].iter_mut().enumerate() {
                *param = hash::uniform_weight(self.seed, key, lane as u64, (3.0 * variance).sqrt());
            }
        };
        for (number, layer) in self.layers.iter().enumerate() {
            fill(number, layer.weight, layer.inputs, layer.outputs);
        }
        if let Some(last) = self.layers.last() {
            fill(self.layers.len(), self.output, last.outputs, 1);
        }
        params
    }

    /// Parameters of this shape, or their momentum, as those of one with more inputs: zero columns for the new ones.
    pub fn widened(&self, params: &[f32], to: &Self) -> Vec<f32> {
        let (Some(first), Some(wider)) = (self.layers.first(), to.layers.first()) else {
            return params.to_vec();
        };
        let mut widened = Vec::with_capacity(to.len);
        for row in params[first.weight..first.bias].chunks_exact(first.inputs) {
            widened.extend_from_slice(row);
            widened.resize(widened.len() + wider.inputs - first.inputs, 0.0);
        }
        widened.extend_from_slice(&params[first.bias..]);
        widened
    }

    /// The runs of parameters that are penalised by L2 (weights and output vector) and those that are not (biases).
    pub fn runs(&self) -> impl Iterator<Item = (Range<usize>, bool)> {
        let hidden = self
            .layers
            .iter()
            .flat_map(|layer| [(layer.weight..layer.bias, true), (layer.bias..layer.bias + layer.outputs, false)]);
        hidden.chain((self.len > 0).then_some((self.output..self.len, true)))
    }

    /// Adds the MLP's logit of each row of `x` (`[rows, inputs]`) to `logits`. `numbers` are the examples' numbers in the
    /// log when dropout applies, that is, when learning.
    pub fn forward(
        &self,
        params: &[f32],
        x: &[f32],
        numbers: Option<&[u64]>,
        work: &mut Activations,
        logits: &mut [f32],
    ) {
        let rows = logits.len();
        work.hidden.resize(self.layers.len(), Vec::new());
        work.masks.resize(if self.dropout.is_empty() { 0 } else { self.layers.len() }, Vec::new());
        for (number, layer) in self.layers.iter().enumerate() {
            let (below, above) = work.hidden.split_at_mut(number);
            let input = below.last().map_or(x, Vec::as_slice);
            let out = &mut above[0];
            out.resize(rows * layer.outputs, 0.0);
            for row in out.chunks_exact_mut(layer.outputs) {
                row.copy_from_slice(&params[layer.bias..layer.bias + layer.outputs]);
            }
            let weight = &params[layer.weight..layer.bias];
            product::add_transposed(input, weight, out, [rows, layer.inputs, layer.outputs]);
            self.activate(out);
            if let (Some(numbers), Some(&rate)) = (numbers, self.dropout.get(number)) {
                let mask = &mut work.masks[number];
                self.fill_mask(number, rate, layer.outputs, numbers, mask);
                out.iter_mut().zip(mask.iter()).for_each(|(h, m)| *h *= m);
            }
        }
        let (Some(last), Some(layer)) = (work.hidden.last(), self.layers.last()) else {
            return;
        };
        kernel::dense::add_dots(&params[self.output..], &last[..rows * layer.outputs], logits);
    }

    /// Writes the gradient of `sum(dlogit * logit)` by the inputs to `dx` (`[rows, inputs]`), and keeps what
    /// [`add_gradient`](Self::add_gradient) needs. `work` is what `forward` left.
    pub fn backward(&self, params: &[f32], dlogit: &[f32], work: &mut Activations, dx: &mut [f32]) {
        let Some(last) = self.layers.last() else { return };
        let rows = dlogit.len();
        let Activations { hidden, masks, deltas, .. } = work;
        deltas.resize(self.layers.len(), Vec::new());
        let top = &mut deltas[self.layers.len() - 1];
        top.clear();
        for &d in dlogit {
            top.extend(params[self.output..][..last.outputs].iter().map(|o| d * o));
        }
        for (number, layer) in self.layers.iter().enumerate().rev() {
            let (below, above) = deltas.split_at_mut(number);
            let delta = &mut above[0];
            self.through_activation(&hidden[number], masks.get(number), delta);
            let weight = &params[layer.weight..layer.bias];
            let to = match below.last_mut() {
                Some(below) => {
                    below.resize(rows * layer.inputs, 0.0);
                    below
                }
                None => &mut *dx,
            };
            to[..rows * layer.inputs].fill(0.0);
            product::add(delta, weight, to, [rows, layer.outputs, layer.inputs]);
        }
    }

    /// Where the parameters of a part are: of each layer the weights, then the biases, at the end its part of the output vector. A vector
    /// of a part has them one after the other in this order.
    pub fn runs_of(&self, part: UnitPart) -> impl Iterator<Item = Range<usize>> {
        let of_layer = move |layer: &DenseLayer| {
            let units = part.of(layer.outputs);
            let weights = layer.weight + units.start * layer.inputs..layer.weight + units.end * layer.inputs;
            [weights, layer.bias + units.start..layer.bias + units.end]
        };
        let output = part.of(self.len - self.output);
        let output = self.output + output.start..self.output + output.end;
        self.layers.iter().flat_map(of_layer).chain(std::iter::once(output))
    }

    /// Adds `factor` times the gradient of `sum(dlogit * logit)` by a part of the parameters to `to`, a vector of that part. Into the
    /// parameters themselves, with a negative factor, it is a step of descent. `work` is what `backward` left; `scaled` is room for
    /// deltas times a factor that is not 1.
    pub fn add_gradient(
        &self,
        (x, dlogit): (&[f32], &[f32]),
        factor: f32,
        work: &Activations,
        scaled: &mut Vec<f32>,
        (part, to): (UnitPart, &mut [f32]),
    ) {
        let Some(last) = self.layers.last() else { return };
        let rows = dlogit.len();
        let Activations { hidden, deltas, .. } = work;
        let mut rest = to;
        for (number, (layer, delta)) in self.layers.iter().zip(deltas).enumerate() {
            let mut delta = delta.as_slice();
            if factor != 1.0 {
                scaled.clear();
                scaled.extend(delta.iter().map(|d| factor * d));
                delta = scaled;
            }
            let units = part.of(layer.outputs);
            let (weights, behind) = rest.split_at_mut(units.len() * layer.inputs);
            let (biases, behind) = behind.split_at_mut(units.len());
            rest = behind;
            kernel::dense::add_columns(delta, layer.outputs, units.start, biases);
            let input = if number == 0 { x } else { &hidden[number - 1] };
            product::add_outer((delta, units), input, weights, [rows, layer.outputs, layer.inputs]);
        }
        let units = part.of(last.outputs);
        let top = &hidden[self.layers.len() - 1];
        kernel::dense::add_columns_scaled(factor, dlogit, top, last.outputs, units.start, rest);
    }

    /// Writes the norm of each row's gradient to `norms`; not finite when something is not. The gradient of a row is an outer product
    /// in each layer, so that its norm needs no gradient. Without an MLP there are none. `work` is what `backward` left.
    pub fn gradient_norms(&self, x: &[f32], dlogit: &[f32], work: &mut Activations, norms: &mut Vec<f64>) {
        norms.clear();
        if self.is_empty() {
            return;
        }
        let rows = dlogit.len();
        let Activations { hidden, deltas, squares, .. } = work;
        squares.resize(2 * rows, 0.0);
        let (inputs, of_delta) = squares.split_at_mut(rows);
        // In f64 they neither overflow nor vanish.
        kernel::dense::sums_of_squares(x, self.inputs, inputs);
        norms.resize(rows, 0.0);
        for ((layer, delta), hidden) in self.layers.iter().zip(&*deltas).zip(&*hidden) {
            kernel::dense::sums_of_squares(delta, layer.outputs, of_delta);
            for (norm, (input, delta)) in norms.iter_mut().zip(inputs.iter().zip(&*of_delta)) {
                *norm += delta * (input + 1.0);
            }
            kernel::dense::sums_of_squares(hidden, layer.outputs, inputs);
        }
        for (norm, (d, input)) in norms.iter_mut().zip(dlogit.iter().zip(&*inputs)) {
            *norm = (*norm + f64::from(*d) * f64::from(*d) * input).sqrt();
        }
    }

    /// Applies the activation of the hidden layers.
    pub fn activate(&self, values: &mut [f32]) {
        match self.activation {
            Activation::Relu => kernel::dense::rectify(values),
            Activation::LeakyRelu => values.iter_mut().for_each(|h| *h = if *h > 0.0 { *h } else { LEAK * *h }),
            Activation::Tanh => values.iter_mut().for_each(|h| *h = math::tanh(*h)),
            Activation::Sigmoid => values.iter_mut().for_each(|h| *h = super::loss::sigmoid(f64::from(*h)) as f32),
        }
    }

    /// Multiplies `delta` with the derivative of activation and dropout, read off the layer's output.
    fn through_activation(&self, output: &[f32], mask: Option<&Vec<f32>>, delta: &mut [f32]) {
        if self.activation == Activation::Relu && mask.is_none_or(Vec::is_empty) {
            kernel::dense::rectify_gradient(delta, output);
            return;
        }
        let derivative = |h: f32| match self.activation {
            Activation::Relu => f32::from(u8::from(h > 0.0)),
            Activation::LeakyRelu => {
                if h > 0.0 {
                    1.0
                } else {
                    LEAK
                }
            }
            Activation::Tanh => 1.0 - h * h,
            Activation::Sigmoid => h * (1.0 - h),
        };
        match mask.filter(|mask| !mask.is_empty()) {
            None => delta.iter_mut().zip(output).for_each(|(d, &h)| *d *= derivative(h)),
            Some(mask) => {
                for ((d, &h), &m) in delta.iter_mut().zip(output).zip(mask) {
                    *d = if m > 0.0 { *d * m * derivative(h / m) } else { 0.0 };
                }
            }
        }
    }

    /// Inverted dropout: a kept unit is multiplied by `1 / (1 - rate)`, so that nothing changes when scoring.
    fn fill_mask(&self, layer: usize, rate: f32, units: usize, numbers: &[u64], mask: &mut Vec<f32>) {
        let kept = 1.0 / (1.0 - rate);
        mask.clear();
        for &number in numbers {
            for unit in 0..units {
                let lane = ((layer as u64 + 1) << 32) | unit as u64;
                let u = (hash::hash(self.seed, number, lane) >> 40) as f32 / (1_u32 << 24) as f32;
                mask.push(if u < rate { 0.0 } else { kept });
            }
        }
    }
}
