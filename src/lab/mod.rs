//! Networks in namespaces: for the demonstration `tidegate lab`, and for tests, here and in other
//! projects.
//!
//! [`topology`] describes and builds networks out of [`netns`] namespaces, as root or, after
//! [`privilege::acquire`], as any user.

pub mod cli;
pub mod error;
pub mod gateway;
pub mod netns;
pub mod performance;
pub mod privilege;
pub mod rows;
pub mod scene;
pub mod standing;
pub mod table;
pub mod topology;
pub mod traffic;
