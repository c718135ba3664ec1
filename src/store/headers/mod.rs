//! Headers of stored responses, packed into templates and values.
//!
//! As a map, the headers of a small asset take more memory than the asset. Most assets of a site
//! have the same headers, and half of those with the same values. These are a [template], which
//! exists once. The [values] that differ are a string of bytes. A response gets its headers from
//! both, as a map or as the lines of a head.

mod packed;
mod template;
mod values;

#[cfg(test)]
pub(crate) use packed::tests;
pub(crate) use packed::{PackedHeaders, PerResponse};
pub(crate) use template::{PackedHead, Template, Templates, field_weight};
