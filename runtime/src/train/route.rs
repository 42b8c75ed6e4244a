//! The routing of prompts to teachers. Routes by data are evaluated row by row when the data is read.

use std::sync::Arc;

use mopd_plan::events::FailureKind;
use mopd_plan::{DomainId, Teacher, TeacherChoice, Train, View};

use crate::data::Dataset;
use crate::failure::{Error, Result};

/// The teachers of a source.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SourceTeachers {
    /// The distinct teachers, in the order of the route's arms.
    teachers: Vec<RoutedTeacher>,
    /// By record, an index into the teachers; `None`: the first teacher has all records.
    of_record: Option<Arc<[u32]>>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct RoutedTeacher {
    pub name: String,
    pub weights: Teacher,
    /// The view that it reads in place of the prompt.
    pub sees: Option<View>,
    /// Whether it has another tokenizer: see [`TeacherChoice::own_tokens`].
    pub own_tokens: bool,
}

impl RoutedTeacher {
    fn from_choice(choice: &TeacherChoice) -> RoutedTeacher {
        let TeacherChoice { domain: _, when: _, name, teacher, sees, own_tokens } = choice.clone();
        RoutedTeacher { name, weights: teacher, sees, own_tokens }
    }
}

impl SourceTeachers {
    /// One teacher for every prompt.
    #[cfg(test)]
    pub fn all(choice: &TeacherChoice) -> SourceTeachers {
        SourceTeachers { teachers: vec![RoutedTeacher::from_choice(choice)], of_record: None }
    }

    /// The teachers of a stage for the prompts of a domain; none where the stage has no route.
    ///
    /// # Errors
    /// If the data was read without the fields that the route reads.
    pub fn new<O>(train: &Train<O>, domain: DomainId, dataset: &Dataset) -> Result<SourceTeachers> {
        let conditions = train.conditions(domain);
        let mut teachers: Vec<RoutedTeacher> = Vec::new();
        let mut of_arm = Vec::new();
        for arm in train.arms(domain).take(conditions.len() + 1) {
            let teacher = RoutedTeacher::from_choice(arm);
            let known = teachers.iter().position(|known| *known == teacher);
            of_arm.push(known.unwrap_or(teachers.len()) as u32);
            if known.is_none() {
                teachers.push(teacher);
            }
        }
        if conditions.is_empty() {
            return Ok(SourceTeachers { teachers, of_record: None });
        }
        let arms = dataset.arms(&conditions).ok_or_else(|| {
            let message =
                format!("{} was read without the fields that the route needs", dataset.path.display());
            Error::new(FailureKind::Runtime, message)
        })?;
        let of_record = arms.iter().enumerate().map(|(record, arm)| {
            of_arm.get(*arm as usize).copied().ok_or_else(|| {
                let (file, place) = dataset.place(record);
                Error::new(
                    FailureKind::Runtime,
                    format!("no teacher is routed to the prompt of {}{place}", file.display()),
                )
            })
        });
        Ok(SourceTeachers { teachers, of_record: Some(of_record.collect::<Result<_>>()?) })
    }

    pub fn teachers(&self) -> &[RoutedTeacher] {
        &self.teachers
    }

    /// The teacher of a record's prompt.
    pub fn teacher(&self, record: usize) -> Option<&RoutedTeacher> {
        self.teachers.get(self.index(record))
    }

    /// Each teacher's fraction of the `records`.
    pub fn shares(&self, records: usize) -> Vec<f64> {
        let mut counts = vec![0; self.teachers.len()];
        match &self.of_record {
            Some(of_record) => of_record.iter().for_each(|teacher| counts[*teacher as usize] += 1),
            None => counts.iter_mut().take(1).for_each(|count| *count = records),
        }
        counts.into_iter().map(|count| count as f64 / records.max(1) as f64).collect()
    }

    /// The index of a record's teacher.
    pub fn index(&self, record: usize) -> usize {
        self.of_record.as_ref().map_or(0, |of_record| of_record[record] as usize)
    }

    /// The number of sections that a step may have of the source.
    pub fn sections(&self) -> usize {
        self.teachers.len().max(1)
    }
}
