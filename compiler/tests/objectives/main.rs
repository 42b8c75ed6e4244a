//! Objectives through the compiler's public interface, against references that are computed here.

mod audit;
mod audit_derivative;
mod finite_differences;
mod normal_form;
mod support;
