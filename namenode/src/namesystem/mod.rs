//! The namespace.
