//! What an editor needs: its configuration, and debug sessions.

pub mod debug;
pub mod vscode;
