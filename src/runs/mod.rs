//! The runs of a store: find one, `latest`, receipts, pins, retention.

pub(crate) mod find;
pub(crate) mod pins;
pub(crate) mod pointer;
pub(crate) mod receipts;
pub(crate) mod retention;
