//! Static quantisation after training: the net and calibration windows in, integers and scales out.
//!
//! Activations become u8 by the least and greatest value that calibration saw, weights s8 by each output
//! channel's greatest magnitude, biases i32 at the product of both scales:
//!
//! ```text
//! x ≈ scale (q - zero),  scale = (max - min) / 255,  zero = round(-min / scale)
//! w ≈ scale_c q,         scale_c = max |w_c| / 127
//! ```

use faultline_models::net::Net;
use ndarray::ArrayView2;

/// How an activation is quantised.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Range {
    pub(crate) scale: f32,
    pub(crate) zero: u8,
}

/// One quantised convolution.
pub(crate) struct Layer {
    /// Output channels first, as the file wants them.
    pub(crate) weights: Vec<i8>,
    /// Of each output channel.
    pub(crate) scales: Vec<f32>,
    pub(crate) bias: Vec<i32>,
    pub(crate) bias_scales: Vec<f32>,
    pub(crate) stride: usize,
}

/// The quantised net.
pub(crate) struct Quantised {
    pub(crate) layers: Vec<Layer>,
    /// Of the input, and of each layer's output.
    pub(crate) ranges: Vec<Range>,
}

impl Range {
    /// A range that holds zero exactly, since padding is zero.
    fn of(least: f32, greatest: f32) -> Self {
        let (least, greatest) = (least.min(0.0), greatest.max(0.0));
        let scale = ((greatest - least) / 255.0).max(f32::MIN_POSITIVE);
        Self { scale, zero: (-least / scale).round().clamp(0.0, 255.0) as u8 }
    }
}

/// Quantises a net by what it does with the calibration windows.
pub(crate) fn quantise(net: &Net, calibration: &[ArrayView2<'_, f32>]) -> Quantised {
    let ranges: Vec<Range> = net
        .activations(calibration)
        .iter()
        .map(|values| {
            let (least, greatest) =
                values.iter().fold((0.0_f32, 0.0_f32), |(l, g), value| (l.min(*value), g.max(*value)));
            Range::of(least, greatest)
        })
        .collect();
    let layers = net.layers.iter().zip(&ranges).map(|(layer, input)| {
        let scales: Vec<f32> = layer
            .weights
            .rows()
            .into_iter()
            .map(|row| row.iter().fold(0.0_f32, |most, w| most.max(w.abs())) / 127.0)
            .map(|scale| scale.max(f32::MIN_POSITIVE))
            .collect();
        let rows = layer.weights.rows().into_iter().zip(&scales);
        let weights = rows
            .flat_map(|(row, scale)| row.iter().map(|w| (w / scale).round() as i8).collect::<Vec<_>>())
            .collect();
        let bias_scales: Vec<f32> = scales.iter().map(|scale| scale * input.scale).collect();
        let bias = layer.bias.iter().zip(&bias_scales).map(|(b, scale)| (b / scale).round() as i32).collect();
        Layer { weights, scales, bias, bias_scales, stride: layer.stride }
    });
    Quantised { layers: layers.collect(), ranges }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_by_hand() {
        let range = Range::of(-1.0, 4.1);
        assert!((range.scale - 0.02).abs() < 1e-6);
        assert_eq!(range.zero, 50);
        // A ReLU's output: zero is the least.
        assert_eq!(Range::of(0.0, 2.55).zero, 0);
    }
}
