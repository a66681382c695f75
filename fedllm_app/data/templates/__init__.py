"""From conversations to the text that a model reads and learns: formats by name, and chat templates in Jinja."""

from fedllm_app.data.templates.binding import TEMPLATES, Template, get_template, template_source
from fedllm_app.data.templates.chat import TemplateError
from fedllm_app.data.templates.formats import Turn

__all__ = ["TEMPLATES", "Template", "TemplateError", "Turn", "get_template", "template_source"]
