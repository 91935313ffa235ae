"""The paper's tables and figures and the reviewers' questions: arms, what runs them, and their pages."""
