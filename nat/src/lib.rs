//! Connections and translation.
