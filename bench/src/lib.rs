//! The playground's parts that read files: rankings and anomaly scores of data sets.

pub mod evaluate;
