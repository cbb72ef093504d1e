//! What training and sampling share.

pub mod model;
pub mod text;
