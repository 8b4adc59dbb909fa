//! A simulated WeChat.
