//! The part of the ONNX file format (onnx.proto, IR version 8) that the autoencoder needs, as prost messages,
//! and the graph written with it: the net in, a file's bytes out.
//!
//! Quantised, every convolution stands between QuantizeLinear and DequantizeLinear pairs (QDQ), which the
//! runtime fuses into integer convolutions.

use crate::quantise::{Quantised, Range};
use faultline_core::encode::{CHANNELS, STEPS};
use faultline_models::net::{FOLD, KERNEL, Net};
use prost::Message;

/// Opset 13 is the first whose quantisation has an axis.
const OPSET: i64 = 13;
const IR_VERSION: i64 = 8;
const FLOAT: i32 = 1;
const UINT8: i32 = 2;
const INT8: i32 = 3;
const INT32: i32 = 6;
const INT64: i32 = 7;

#[derive(Clone, PartialEq, Message)]
struct Model {
    #[prost(int64, tag = "1")]
    ir_version: i64,
    #[prost(string, tag = "2")]
    producer: String,
    #[prost(message, optional, tag = "7")]
    graph: Option<Graph>,
    #[prost(message, repeated, tag = "8")]
    opsets: Vec<Opset>,
}

#[derive(Clone, PartialEq, Message)]
struct Opset {
    #[prost(string, tag = "1")]
    domain: String,
    #[prost(int64, tag = "2")]
    version: i64,
}

#[derive(Clone, PartialEq, Message)]
struct Graph {
    #[prost(message, repeated, tag = "1")]
    nodes: Vec<Node>,
    #[prost(string, tag = "2")]
    name: String,
    #[prost(message, repeated, tag = "5")]
    initializers: Vec<Tensor>,
    #[prost(message, repeated, tag = "11")]
    inputs: Vec<Value>,
    #[prost(message, repeated, tag = "12")]
    outputs: Vec<Value>,
}

#[derive(Clone, PartialEq, Message)]
struct Node {
    #[prost(string, repeated, tag = "1")]
    inputs: Vec<String>,
    #[prost(string, repeated, tag = "2")]
    outputs: Vec<String>,
    #[prost(string, tag = "3")]
    name: String,
    #[prost(string, tag = "4")]
    operator: String,
    #[prost(message, repeated, tag = "5")]
    attributes: Vec<Attribute>,
}

#[derive(Clone, PartialEq, Message)]
struct Attribute {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(int64, tag = "3")]
    int: i64,
    #[prost(int64, repeated, tag = "8")]
    ints: Vec<i64>,
    #[prost(int32, tag = "20")]
    kind: i32,
}

#[derive(Clone, PartialEq, Message)]
struct Tensor {
    #[prost(int64, repeated, tag = "1")]
    dimensions: Vec<i64>,
    #[prost(int32, tag = "2")]
    kind: i32,
    #[prost(string, tag = "8")]
    name: String,
    #[prost(bytes = "vec", tag = "9")]
    raw: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct Value {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, optional, tag = "2")]
    kind: Option<Type>,
}

#[derive(Clone, PartialEq, Message)]
struct Type {
    #[prost(message, optional, tag = "1")]
    tensor: Option<TensorType>,
}

#[derive(Clone, PartialEq, Message)]
struct TensorType {
    #[prost(int32, tag = "1")]
    element: i32,
    #[prost(message, optional, tag = "2")]
    shape: Option<Shape>,
}

#[derive(Clone, PartialEq, Message)]
struct Shape {
    #[prost(message, repeated, tag = "1")]
    dimensions: Vec<Dimension>,
}

#[derive(Clone, PartialEq, Message)]
struct Dimension {
    #[prost(int64, optional, tag = "1")]
    value: Option<i64>,
    #[prost(string, optional, tag = "2")]
    symbol: Option<String>,
}

/// The net as trained.
pub(crate) fn float(net: &Net) -> Vec<u8> {
    let mut graph = Writer::default();
    let mut input = "windows".to_owned();
    for (index, layer) in net.layers.iter().enumerate() {
        let weights = [layer.bias.len() as i64, (layer.weights.ncols() / KERNEL) as i64, KERNEL as i64];
        graph.tensor(&format!("w{index}"), FLOAT, &weights, floats(layer.weights.iter()));
        graph.tensor(&format!("b{index}"), FLOAT, &weights[..1], floats(layer.bias.iter()));
        let names = [input, format!("w{index}"), format!("b{index}")];
        input = graph.convolution(index, &names, layer.stride, index + 1 < net.layers.len());
    }
    graph.finish(&input)
}

/// The net after quantisation.
pub(crate) fn quantised(net: &Quantised) -> Vec<u8> {
    let mut graph = Writer::default();
    let mut input = graph.round_trip("windows", net.ranges.first().copied().unwrap_or_default());
    for (index, layer) in net.layers.iter().enumerate() {
        let outputs = layer.scales.len() as i64;
        let weights = [outputs, layer.weights.len() as i64 / outputs / KERNEL as i64, KERNEL as i64];
        let [w, b] = [format!("w{index}"), format!("b{index}")];
        graph.tensor(
            &format!("{w}_q"),
            INT8,
            &weights,
            layer.weights.iter().map(|w| w.cast_unsigned()).collect(),
        );
        graph.tensor(&format!("{w}_scale"), FLOAT, &weights[..1], floats(layer.scales.iter()));
        graph.tensor(&format!("{w}_zero"), INT8, &weights[..1], vec![0; outputs as usize]);
        let axis = || vec![Attribute { name: "axis".into(), int: 0, kind: 2, ..Default::default() }];
        graph.node(
            "DequantizeLinear",
            &[&format!("{w}_q"), &format!("{w}_scale"), &format!("{w}_zero")],
            &w,
            axis(),
        );
        let bias = layer.bias.iter().flat_map(|b| b.to_le_bytes()).collect();
        graph.tensor(&format!("{b}_q"), INT32, &weights[..1], bias);
        graph.tensor(&format!("{b}_scale"), FLOAT, &weights[..1], floats(layer.bias_scales.iter()));
        graph.node("DequantizeLinear", &[&format!("{b}_q"), &format!("{b}_scale")], &b, axis());
        let output = graph.convolution(index, &[input, w, b], layer.stride, index + 1 < net.layers.len());
        input = graph.round_trip(&output, net.ranges.get(index + 1).copied().unwrap_or_default());
    }
    graph.finish(&input)
}

/// A graph being written.
#[derive(Default)]
struct Writer {
    nodes: Vec<Node>,
    tensors: Vec<Tensor>,
}

impl Writer {
    fn tensor(&mut self, name: &str, kind: i32, dimensions: &[i64], raw: Vec<u8>) {
        self.tensors.push(Tensor { dimensions: dimensions.to_vec(), kind, name: name.into(), raw });
    }

    fn node(&mut self, operator: &str, inputs: &[&str], output: &str, attributes: Vec<Attribute>) {
        self.nodes.push(Node {
            inputs: inputs.iter().map(|&name| name.to_owned()).collect(),
            outputs: vec![output.to_owned()],
            name: format!("{output}_{operator}"),
            operator: operator.to_owned(),
            attributes,
        });
    }

    /// Convolution with padding 1, and ReLU straight behind where wanted; gives the output's name.
    fn convolution(&mut self, index: usize, inputs: &[String; 3], stride: usize, relu: bool) -> String {
        let ints = |name: &str, ints: &[i64]| Attribute {
            name: name.into(),
            ints: ints.to_vec(),
            kind: 7,
            ..Default::default()
        };
        let output = format!("conv{index}");
        let attributes = vec![
            ints("kernel_shape", &[KERNEL as i64]),
            ints("pads", &[1, 1]),
            ints("strides", &[stride as i64]),
        ];
        self.node("Conv", &inputs.each_ref().map(String::as_str), &output, attributes);
        if !relu {
            return output;
        }
        let rectified = format!("relu{index}");
        self.node("Relu", &[&output], &rectified, Vec::new());
        rectified
    }

    /// Quantise and dequantise; gives the output's name.
    fn round_trip(&mut self, input: &str, range: Range) -> String {
        let [scale, zero] = [format!("{input}_scale"), format!("{input}_zero")];
        self.tensor(&scale, FLOAT, &[], floats([&range.scale].into_iter()));
        self.tensor(&zero, UINT8, &[], vec![range.zero]);
        let [quantised, output] = [format!("{input}_q"), format!("{input}_dq")];
        self.node("QuantizeLinear", &[input, &scale, &zero], &quantised, Vec::new());
        self.node("DequantizeLinear", &[&quantised, &scale, &zero], &output, Vec::new());
        output
    }

    /// Unfolds `[batch, CHANNELS * FOLD, positions]` into `[batch, CHANNELS, STEPS]` and closes the graph.
    fn finish(mut self, input: &str) -> Vec<u8> {
        let shape = |dimensions: &[i64]| dimensions.iter().flat_map(|d| d.to_le_bytes()).collect();
        // A 0 keeps the batch's size, whatever it is.
        let folded = [0, CHANNELS as i64, FOLD as i64, (STEPS / FOLD) as i64];
        self.tensor("folded_shape", INT64, &[4], shape(&folded));
        self.tensor("shape", INT64, &[3], shape(&[0, CHANNELS as i64, STEPS as i64]));
        self.node("Reshape", &[input, "folded_shape"], "folded", Vec::new());
        let order = Attribute { name: "perm".into(), ints: vec![0, 1, 3, 2], kind: 7, ..Default::default() };
        self.node("Transpose", &["folded"], "unfolded", vec![order]);
        self.node("Reshape", &["unfolded", "shape"], "reconstructed", Vec::new());
        let graph = Graph {
            nodes: self.nodes,
            name: "autoencoder".into(),
            initializers: self.tensors,
            inputs: vec![value("windows")],
            outputs: vec![value("reconstructed")],
        };
        let model = Model {
            ir_version: IR_VERSION,
            producer: "faultline-models".into(),
            graph: Some(graph),
            opsets: vec![Opset { domain: String::new(), version: OPSET }],
        };
        model.encode_to_vec()
    }
}

fn value(name: &str) -> Value {
    let known = |value: usize| Dimension { value: Some(value as i64), symbol: None };
    let batch = Dimension { value: None, symbol: Some("batch".into()) };
    let shape = Shape { dimensions: vec![batch, known(CHANNELS), known(STEPS)] };
    let tensor = TensorType { element: FLOAT, shape: Some(shape) };
    Value { name: name.into(), kind: Some(Type { tensor: Some(tensor) }) }
}

fn floats<'f>(values: impl Iterator<Item = &'f f32>) -> Vec<u8> {
    values.flat_map(|value| value.to_le_bytes()).collect()
}
