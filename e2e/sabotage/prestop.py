"""Sabotage of the operator: no pod has a preStop hook any more."""

import sys

if any("steelyard" in argument for argument in sys.orig_argv):
    from steelyard_operator.render import children, template

    def _without(render):
        def rendered(*arguments, **named):
            found = render(*arguments, **named)
            _strip(found)
            return found

        return rendered

    def _strip(found):
        if isinstance(found, dict):
            found.pop("lifecycle", None)
        if isinstance(found, (dict, list, tuple)):
            for value in found.values() if isinstance(found, dict) else found:
                _strip(value)

    template.worker_template = _without(template.worker_template)
    children.children = _without(children.children)
