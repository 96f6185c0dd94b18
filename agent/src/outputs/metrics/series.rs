//! Writes families of series; a family without a series is left out.

use faultline_core::totals::Histogram;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeLabelSet, LabelSetEncoder, MetricEncoder, NoLabelSet,
};
use prometheus_client::metrics::MetricType;
use std::fmt::Error;

/// Writes one family after the other.
#[derive(Debug)]
pub(super) struct Series<'a> {
    encoder: DescriptorEncoder<'a>,
}

/// Label names and values of one series.
struct Row<'a>(&'a [(&'static str, &'a str)]);

impl EncodeLabelSet for Row<'_> {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> Result<(), Error> {
        self.0.encode(encoder)
    }
}

impl<'a> Series<'a> {
    pub(super) fn new(encoder: DescriptorEncoder<'a>) -> Self {
        Self { encoder }
    }

    pub(super) fn gauge<'r, L: AsRef<[(&'static str, &'r str)]>>(
        &mut self,
        name: &str,
        help: &str,
        rows: impl IntoIterator<Item = (L, f64)>,
    ) -> Result<(), Error> {
        self.family(name, help, MetricType::Gauge, rows, |encoder, value| encoder.encode_gauge(&value))
    }

    pub(super) fn counter<'r, L: AsRef<[(&'static str, &'r str)]>>(
        &mut self,
        name: &str,
        help: &str,
        rows: impl IntoIterator<Item = (L, f64)>,
    ) -> Result<(), Error> {
        self.family(name, help, MetricType::Counter, rows, |encoder, value| encoder.encode_gauge(&value))
    }

    pub(super) fn histogram<'r, 'h, L: AsRef<[(&'static str, &'r str)]>, const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        bounds: &[f64; N],
        rows: impl IntoIterator<Item = (L, &'h Histogram<N>)>,
    ) -> Result<(), Error> {
        self.family(name, help, MetricType::Histogram, rows, |encoder, histogram| {
            let within: u64 = histogram.buckets.iter().sum();
            let above = histogram.count.saturating_sub(within);
            let buckets: Vec<(f64, u64)> =
                bounds.iter().copied().zip(histogram.buckets).chain([(f64::INFINITY, above)]).collect();
            encoder.encode_histogram::<NoLabelSet>(histogram.sum, histogram.count, &buckets, None)
        })
    }

    fn family<'r, L: AsRef<[(&'static str, &'r str)]>, V>(
        &mut self,
        name: &str,
        help: &str,
        kind: MetricType,
        rows: impl IntoIterator<Item = (L, V)>,
        write: impl Fn(&mut MetricEncoder<'_>, V) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut rows = rows.into_iter().peekable();
        if rows.peek().is_none() {
            return Ok(());
        }
        let mut family = self.encoder.encode_descriptor(name, help, None, kind)?;
        for (labels, value) in rows {
            let labels = labels.as_ref();
            if labels.is_empty() {
                write(&mut family, value)?;
            } else {
                write(&mut family.encode_family(&Row(labels))?, value)?;
            }
        }
        Ok(())
    }
}
