//! Windows to the features of the model: trailing robust baseline, presence mask, clipping.
